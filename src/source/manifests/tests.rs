//! Tests of manifests with real files in a temporary folder, and the real watcher.

use std::fs;
use std::time::Duration;

use tempfile::TempDir;

use super::*;

const WEB: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: None}\n";

fn service(name: &str) -> String {
    WEB.replace("web", name)
}

/// Returns a folder with these files, and its manifests.
fn folder(files: &[(&str, &[u8])]) -> (TempDir, Manifests) {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let manifests = Manifests::new(vec![folder.path().to_owned()], "default", 10_000);
    (folder, manifests)
}

/// Compares the names of objects, and reports without the folder's path; `..` ends an expected report that is cut
/// short.
#[track_caller]
fn check(folder: &TempDir, loaded: &Loaded, objects: &[&str], reports: &[&str]) {
    let names: Vec<&str> = loaded.objects.iter().map(Object::name).collect();
    let prefix = format!("{}/", folder.path().display());
    let said: Vec<String> = loaded.reports.iter().map(|report| report.to_string().replace(&prefix, "")).collect();
    let same = said.len() == reports.len()
        && said.iter().zip(reports).all(|(said, report)| match report.strip_suffix("..") {
            Some(start) => said.starts_with(start),
            None => said == report,
        });
    assert!(names == objects && same, "objects: {names:#?}\nreports: {said:#?}\nexpected: {reports:#?}");
}

#[test]
fn reads_folder() {
    let bad = format!("{}---\nkind: [\n---\n{}", service("a"), service("b"));
    let invalid =
        "apiVersion: v1\nkind: Pod\n---\napiVersion: v1\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n";
    let list = format!(
        r#"{{"kind":"List","apiVersion":"v1","items":[
            {{"apiVersion":"v1","kind":"Service","metadata":{{"name":"l1"}}}}, {{"kind":"Service","apiVersion":"v1"}},
            {}]}}"#,
        r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"l2","uid":"1"},"spec":{"clusterIP":"x"}}"#
    );
    let (folder, mut manifests) = folder(&[
        ("z.yaml", service("z").as_bytes()),
        ("bad.yaml", bad.as_bytes()),
        ("invalid.yml", invalid.as_bytes()),
        ("list.json", list.as_bytes()),
        ("empty.yaml", b""),
        ("comments.yaml", b"# nothing\n---\n# here\n"),
        ("readme.md", b"{{{"),
        ("sub/deep/s.YAML", service("s").as_bytes()),
        (".hidden.yaml", b"{{{"),
        (".git/x.yaml", b"{{{"),
        ("latin.yaml", b"a: 1\nb: \xe9\n"),
        ("huge.yaml", &[b'#'; 10_001]),
    ]);
    let loaded = manifests.reload();
    check(
        &folder,
        &loaded,
        &["a", "b", "l1", "l2", "s", "z"],
        &[
            "huge.yaml: the file has more than 10000 octets and is not read: split it, or raise --max-manifest-size",
            "latin.yaml, line 2: the file is not UTF-8",
            "bad.yaml, document 2, line 6: this is not YAML: ..",
            "invalid.yml, document 1, line 1: the Pod has no `metadata.name`; it is left out",
            "invalid.yml, document 2, line 4: the document has an `apiVersion` and no `kind`, so it is no Kubernetes \
             object; it is left out",
            "list.json, document 1, line 1: item 2 of the list: the Service has no `metadata.name`; it is left out",
            "list.json, document 1, line 1: Service default/l2: `clusterIP` \"x\" is no address; it is left out",
        ],
    );
    assert_eq!((loaded.ignored, loaded.files), (1, 7));
}

/// Checks that documents of kinds that are not read need no valid field but their kind.
#[test]
fn skips_documents_of_other_kinds() {
    for document in [
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [a.yaml]\n",
        "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nspec: {profile: minimal}\n",
        "apiVersion: v1\nkind: List\nitems: [{apiVersion: example.org/v1, kind: Dashboard}]\n",
        "apiVersion: example.org/v1\nkind: AllowList\nitems: {a: b}\n",
        "apiVersion: serving.knative.dev/v1\nkind: Service\nspec: {}\n",
        "apiVersion: batch/v1\nkind: Job\nmetadata: {generateName: once-}\n",
        "{\"title\": \"Requests\", \"panels\": [{\"id\": 1}]}",
        "[{\"op\": \"remove\", \"path\": \"/spec/replicas\"}, 1]",
        "replicaCount: 3\nimage: {tag: 1.2}\n",
    ] {
        let (folder, mut manifests) = folder(&[("1.yaml", document.as_bytes())]);
        let loaded = manifests.reload();
        check(&folder, &loaded, &[], &[]);
        assert_eq!(loaded.ignored, 1, "{document}");
    }
    let text = b"apiVersion: v1\nkind: ServiceList\nitems: 5\n---\na text\n";
    let (folder, mut manifests) = folder(&[("1.yaml", text)]);
    let said = [
        "1.yaml, document 1, line 1: the ServiceList has `items` that are no list; it is left out",
        "1.yaml, document 2, line 5: the document is a plain value and no Kubernetes object; it is left out",
    ];
    check(&folder, &manifests.reload(), &[], &said);
}

/// Checks the report about a workload that is not simulated, as its Pods are missing.
#[test]
fn reports_workloads_of_other_kinds() {
    let document = "apiVersion: apps.kruise.io/v1beta1\nkind: StatefulSet\nmetadata: {name: web}\n\
                    spec: {template: {spec: {containers: []}}}\n";
    let (folder, mut manifests) = folder(&[("1.yaml", document.as_bytes())]);
    let loaded = manifests.reload();
    let said = "1.yaml, document 1, line 1: StatefulSet default/web has a Pod template, and this kind is not simulated: \
                it gets no Pods";
    check(&folder, &loaded, &[], &[said]);
    assert_eq!(loaded.reports[0].cause, Cause::NotSimulated);
}

/// Checks that a chart's templates are one report for each file.
#[test]
fn reports_chart_templates() {
    let templates = format!(
        "{WEB}---\nkind: [\n---\n{{{{- if .Values.service }}}}\n{WEB}{{{{- end }}}}\n---\nreplicas: {{{{ .Values.n }}\n"
    );
    let rule = "apiVersion: example.org/v1\nkind: Rule\nspec: {text: '{{ $labels.pod }}'}\n";
    let (folder, mut manifests) = folder(&[("1.yaml", templates.as_bytes()), ("2.yaml", rule.as_bytes())]);
    let loaded = manifests.reload();
    let said =
        ["1.yaml, document 2, line 6: this is not YAML: ..", "1.yaml, document 3, line 8: the file is a template (.."];
    check(&folder, &loaded, &["web"], &said);
    assert!(loaded.reports[1].text.ends_with("render it first (helm template)"));
}

/// Checks the names of objects that a broken document may define.
#[test]
fn finds_names_in_unparsable_text() {
    for (text, names) in [
        ("kind: Service\nmetadata:\n  name: web\n  namespace: shop\nspec: [\n", &["web"][..]),
        ("kind: Pod\nmetadata: {name: \"web-0\", labels: {a: b}}\nspec: {containers: [{name: c}\n", &["c", "web-0"]),
        ("{\"metadata\": {\"name\":\"web\",\"x\":1}, \"spec\": [}", &["web"]),
    ] {
        let loaded = read_text("it", text, "default");
        let names = names.iter().map(|name| (*name).into()).collect();
        assert_eq!(loaded.reports[0].subject, Subject::Names(names), "{text}");
    }
    assert_eq!(read_text("it", "{ no: [yaml", "default").reports[0].subject, Subject::Unknown);
}

#[test]
fn reads_nested_lists() {
    let nested = format!("{}{}{}", r#"{"kind":"List","items":["#.repeat(60), "[]", "]}".repeat(60));
    let (folder, mut manifests) = folder(&[("1.json", nested.as_bytes()), ("2.json", "[".repeat(9000).as_bytes())]);
    let wrong = "2.json, document 1, line 1: this is not JSON: recursion limit exceeded";
    check(&folder, &manifests.reload(), &[], &[wrong]);
}

#[test]
fn reports_duplicate_definitions() {
    let other = WEB.replace("None", "10.0.0.1, ports: [{port: 80}]");
    let twice = format!("{WEB}---\n{WEB}---\n{other}");
    let (folder, mut manifests) = folder(&[("1.yaml", twice.as_bytes()), ("2.yaml", WEB.as_bytes())]);
    let loaded = manifests.reload();
    let said = "Service default/web is defined here and, differently, in ";
    let first = format!("1.yaml, document 3, line 11: {said}..");
    let second = format!("2.yaml, document 1, line 1: {said}..");
    check(&folder, &loaded, &["web"], &[&first, &second]);
    assert!(loaded.reports[1].text.ends_with("1.yaml, document 3, line 11; the definition here counts"));
    let Object::Service(service) = &loaded.objects[0] else { panic!("a Service") };
    assert_eq!(service.kind, object::ServiceKind::Headless);
}

#[test]
fn reports_missing_paths() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("empty")).unwrap();
    let paths = ["gone.yaml", "empty"].map(|name| folder.path().join(name));
    let loaded = Manifests::new(paths.into(), "default", MAX_SIZE).reload();
    let said =
        ["gone.yaml: there is no such file or folder", "empty: the folder holds no *.yaml, *.yml or *.json file"];
    check(&folder, &loaded, &[], &said);
    // An empty folder can be opened, and may be filled.
    assert_eq!(loaded.unusable, loaded.reports[..1]);
}

#[test]
fn reloads_changed_files() {
    let two = format!("{}---\n{}", service("a"), service("b"));
    let (folder, mut manifests) = folder(&[("1.yaml", two.as_bytes()), ("2.yaml", service("c").as_bytes())]);
    let path = |name: &str| folder.path().join(name);
    check(&folder, &manifests.reload(), &["a", "b", "c"], &[]);
    check(&folder, &manifests.reload(), &["a", "b", "c"], &[]);

    // A syntax error keeps the previous content of the whole file, as long as the error is there.
    fs::write(path("1.yaml"), format!("{}---\n{{\n", service("new"))).unwrap();
    for _ in 0..2 {
        let loaded = manifests.reload();
        check(&folder, &loaded, &["a", "b", "c"], &["1.yaml, document 2, line 6: this is not JSON: .."]);
        assert!(
            loaded.reports[0].text.ends_with("; the previous content of the file stays in service"),
            "{}",
            loaded.reports[0]
        );
        assert_eq!(loaded.reports[0].cause, Cause::Syntax);
    }
    // A file that cannot be read keeps its previous content too.
    fs::write(path("1.yaml"), [b'#'; 10_001]).unwrap();
    check(&folder, &manifests.reload(), &["a", "b", "c"], &["1.yaml: the file has more than .."]);
    // An invalid object is left out alone.
    fs::write(path("1.yaml"), two.replace("name: a", "namespace: a")).unwrap();
    check(&folder, &manifests.reload(), &["b", "c"], &["1.yaml, document 1, line 1: the Service has no .."]);
    // A removed file takes its objects along; a new one adds its own, despite bad documents.
    fs::remove_file(path("2.yaml")).unwrap();
    fs::write(path("3.yaml"), format!("{}---\n[", service("d"))).unwrap();
    fs::write(path("1.yaml"), &two).unwrap();
    check(&folder, &manifests.reload(), &["a", "b", "d"], &["3.yaml, document 2, line 6: .."]);
    fs::remove_dir_all(folder.path()).unwrap();
    let loaded = manifests.reload();
    assert!(loaded.objects.is_empty() && loaded.reports[0].text == "there is no such file or folder");
}

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    #[test]
    fn reads_mounted_config_map_once() {
        let (folder, mut manifests) = folder(&[("..2024_1/web.yaml", WEB.as_bytes())]);
        symlink("..2024_1", folder.path().join("..data")).unwrap();
        symlink("..data/web.yaml", folder.path().join("web.yaml")).unwrap();
        let loaded = manifests.reload();
        check(&folder, &loaded, &["web"], &[]);
        assert_eq!(loaded.files, 1);
    }

    #[test]
    fn ends_at_link_cycles_and_pipes() {
        let (folder, mut manifests) = folder(&[("sub/web.yaml", WEB.as_bytes())]);
        symlink(folder.path(), folder.path().join("sub/up")).unwrap();
        symlink("nowhere", folder.path().join("lost.yaml")).unwrap();
        assert!(Command::new("mkfifo").arg(folder.path().join("pipe.yaml")).status().unwrap().success());
        check(&folder, &manifests.reload(), &["web"], &["lost.yaml: there is no such file"]);
    }

    #[test]
    fn reads_named_pipe_once() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let mut manifests = Manifests::new(vec![pipe.clone()], "default", 10_000);
        std::thread::scope(|scope| {
            scope.spawn(|| fs::write(&pipe, WEB).unwrap());
            check(&folder, &manifests.reload(), &["web"], &[]);
        });
        check(&folder, &manifests.reload(), &["web"], &[]);
    }

    #[test]
    fn rejects_device() {
        let loaded = Manifests::new(vec!["/dev/zero".into()], "default", 10_000).reload();
        assert!(loaded.reports[0].text.starts_with("the path is a character device: give"), "{:?}", loaded.reports);
        assert_eq!(loaded.unusable, loaded.reports);
    }

    #[tokio::test]
    async fn sees_config_map_swap() {
        let (folder, mut manifests) = folder(&[("..1/web.yaml", WEB.as_bytes())]);
        symlink("..1", folder.path().join("..data")).unwrap();
        symlink("..data/web.yaml", folder.path().join("web.yaml")).unwrap();
        let mut one_file = ManifestWatcher::start(&[folder.path().join("web.yaml")]).unwrap();
        let mut whole = ManifestWatcher::start(&[folder.path().to_owned()]).unwrap();
        check(&folder, &manifests.reload(), &["web"], &[]);
        for round in 2..4 {
            let new = folder.path().join(format!("..{round}"));
            fs::create_dir(&new).unwrap();
            fs::write(new.join("web.yaml"), service(&format!("web{round}"))).unwrap();
            symlink(&new, folder.path().join("..tmp")).unwrap();
            fs::rename(folder.path().join("..tmp"), folder.path().join("..data")).unwrap();
            changed(&mut one_file).await;
            changed(&mut whole).await;
            check(&folder, &manifests.reload(), &[&format!("web{round}")], &[]);
            fs::remove_dir_all(folder.path().join(format!("..{}", round - 1))).unwrap();
        }
    }
}

async fn changed(watcher: &mut ManifestWatcher) {
    tokio::time::timeout(Duration::from_secs(30), watcher.changed()).await.expect("the change is seen");
}

#[tokio::test]
async fn sees_changes() {
    let (folder, mut manifests) = folder(&[("web.yaml", WEB.as_bytes())]);
    let path = |name: &str| folder.path().join(name);
    let mut watcher = ManifestWatcher::start(&[folder.path().to_owned()]).unwrap();
    check(&folder, &manifests.reload(), &["web"], &[]);
    // A rename as by an editor, twice: for the second one the first file is gone.
    for name in ["one", "two"] {
        fs::write(path(".web.yaml.tmp"), service(name)).unwrap();
        fs::rename(path(".web.yaml.tmp"), path("web.yaml")).unwrap();
        changed(&mut watcher).await;
        check(&folder, &manifests.reload(), &[name], &[]);
    }
    // A new folder, then a file in it, then the folder removed, and all again.
    for name in ["three", "four"] {
        fs::create_dir(path("sub")).unwrap();
        changed(&mut watcher).await;
        fs::write(path("sub/new.yaml"), service(name)).unwrap();
        changed(&mut watcher).await;
        check(&folder, &manifests.reload(), &[name, "two"], &[]);
        fs::remove_dir_all(path("sub")).unwrap();
        changed(&mut watcher).await;
        check(&folder, &manifests.reload(), &["two"], &[]);
    }
}

#[tokio::test]
async fn sees_later_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a/b/web.yaml");
    let mut watcher = ManifestWatcher::start(&[file.clone(), "-".into()]).unwrap();
    fs::create_dir(folder.path().join("a")).unwrap();
    changed(&mut watcher).await;
    fs::create_dir(folder.path().join("a/b")).unwrap();
    changed(&mut watcher).await;
    fs::write(&file, WEB).unwrap();
    changed(&mut watcher).await;
    check(&folder, &Manifests::new(vec![file], "default", MAX_SIZE).reload(), &["web"], &[]);
}

#[tokio::test]
async fn reading_triggers_no_reload() {
    let (folder, mut manifests) = folder(&[("web.yaml", WEB.as_bytes())]);
    let mut watcher = ManifestWatcher::start(&[folder.path().to_owned()]).unwrap();
    manifests.reload();
    fs::write(folder.path().join("notes.log"), "x").unwrap();
    // The creation of the log file is one change (it might be a folder); reading makes no further one.
    changed(&mut watcher).await;
    manifests.reload();
    let quiet = Duration::from_millis(300);
    assert!(tokio::time::timeout(quiet, watcher.changed()).await.is_err(), "reading made an event");
}
