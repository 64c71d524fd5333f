//! etcd, kube-apiserver and kube-controller-manager on loopback: started, stopped, killed, frozen, restored from a backup.
//!
//! [`ControlPlane::start`] needs the binaries of `tests/cluster/build`, in the folder that `KUBEBUILDER_ASSETS` names. Each
//! control plane has its own folder and ports, and ends with its value, also when a test panics. There is no scheduler and no
//! kubelet; `kubelet.rs` replaces both.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use super::common::ports::ReservedPort;
use super::{WAIT_TIMEOUT, until};

/// The user of [`ControlPlane::server_kubeconfig`]: a service account, without any right of its own.
pub const SERVER_USER: &str = "system:serviceaccount:headless-dns:headless-dns";
/// The Node that every Pod is bound to, and its zone.
pub const NODE: &str = "node-a";
pub const ZONE: &str = "zone-a";
/// Where ClusterIPs come from.
pub const SERVICE_RANGES: &str = "10.96.0.0/16,fd00:10:96::/112";
/// Issuer and audience of the tokens of service accounts.
pub const ISSUER: &str = "https://kubernetes.default.svc";

/// The last one lets namespaces end: it takes the finalizer from the volumes that a StatefulSet claimed.
const CONTROLLERS: &str = "endpointslice-controller,endpointslice-mirroring-controller,endpoints-controller,\
    statefulset-controller,deployment-controller,replicaset-controller,namespace-controller,\
    garbage-collector-controller,resourcequota-controller,disruption-controller,\
    persistentvolumeclaim-protection-controller";

/// One cluster's control plane, running.
pub struct ControlPlane {
    pub etcd: Component,
    pub api_server: Component,
    pub controller_manager: Component,
    assets: PathBuf,
    /// Ports of etcd's clients, its peers and the API server: a component that restarts uses its own again.
    ports: [ReservedPort; 3],
    /// The last field: removed when nothing runs in it any more.
    folder: tempfile::TempDir,
}

impl ControlPlane {
    /// A control plane whose API server is ready, with the namespace `default` and one Node.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a control plane with more flags of kube-apiserver.
    pub fn start_with(api_server_flags: &[&str]) -> Self {
        let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let assets = assets.expect("tests/cluster/run builds the binaries and sets KUBEBUILDER_ASSETS");
        let folder = tempfile::Builder::new().prefix("plane-").tempdir_in(work_folder()).unwrap();
        let ports = [(); 3].map(|()| ReservedPort::new());
        let [etcd_port, peer_port, api_port] = [0, 1, 2].map(|index: usize| ports[index].port());
        write_keys_and_tokens(folder.path());
        let plane = Self {
            etcd: Component::new("etcd", &assets, folder.path(), etcd_flags(folder.path(), etcd_port, peer_port)),
            api_server: Component::new("kube-apiserver", &assets, folder.path(), {
                let mut flags = api_flags(folder.path(), etcd_port, api_port);
                flags.extend(api_server_flags.iter().map(|&flag| flag.to_owned()));
                flags
            }),
            controller_manager: Component::new(
                "kube-controller-manager",
                &assets,
                folder.path(),
                manager_flags(folder.path()),
            ),
            assets,
            ports,
            folder,
        };
        plane.etcd.start();
        plane.api_server.start();
        plane.wait_ready().unwrap_or_else(|ended| panic!("no control plane: {ended}"));
        plane.write_kubeconfig("admin", "token: admin-token");
        plane.write_kubeconfig("server", "token: server-token");
        plane.controller_manager.start();
        plane.furnish();
        plane
    }

    /// Waits until the API server is ready, with any number of refused attempts before.
    ///
    /// # Errors
    ///
    /// If one of the two processes ended, with the end of its log.
    pub fn wait_ready(&self) -> Result<(), String> {
        // The certificate is there with the first start.
        until("kube-apiserver is ready", WAIT_TIMEOUT, || {
            for component in [&self.etcd, &self.api_server] {
                if let Some(ended) = component.ended() {
                    return Ok(Err(ended));
                }
            }
            let certificate = self.ca().exists().then_some(()).ok_or("no certificate yet");
            certificate?;
            self.write_kubeconfig("admin", "token: admin-token");
            let said = self.try_kubectl(&["get", "--raw", "/readyz", "--request-timeout", "2s"]);
            if said.status.success() { Ok(Ok(())) } else { Err(stderr(&said)) }
        })
    }

    /// Creates the Node, and waits for the namespace `default`.
    fn furnish(&self) {
        self.apply(&format!(
            "{{apiVersion: v1, kind: Node, metadata: {{name: {NODE}, labels: {{topology.kubernetes.io/zone: {ZONE}}}}}}}"
        ));
        until("the namespace default", WAIT_TIMEOUT, || {
            let said = self.try_kubectl(&["get", "namespace/default", "service/kubernetes", "-o", "name"]);
            if said.status.success() { Ok(()) } else { Err(stderr(&said)) }
        });
    }

    /// Runs kubectl as the admin, with all permissions, and returns its output.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn kubectl(&self, args: &[&str]) -> String {
        let output = self.try_kubectl(args);
        assert!(output.status.success(), "kubectl {}: {}", args.join(" "), stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs kubectl, which may fail.
    pub fn try_kubectl(&self, args: &[&str]) -> Output {
        self.kubectl_command().args(args).output().unwrap()
    }

    /// Applies manifests in the namespace `default` where they name none.
    pub fn apply(&self, yaml: &str) {
        self.pipe(&["apply", "-f", "-"], yaml);
    }

    /// Runs kubectl with `input` on its standard input, and returns its output.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn pipe(&self, args: &[&str], input: &str) -> String {
        let mut command = self.kubectl_command();
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "kubectl {}: {}", args.join(" "), stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Makes a shell that runs `script`, and in which `kubectl` is the admin's.
    pub fn shell(&self, script: &str) -> Command {
        let bin = self.folder.path().join("bin");
        if !bin.exists() {
            fs::create_dir(&bin).unwrap();
            let kubectl = format!(
                "#!/bin/sh\nexec '{}' --kubeconfig '{}' --cache-dir '{}' \"$@\"\n",
                self.assets.join("kubectl").display(),
                self.admin_kubeconfig().display(),
                self.folder.path().join("kubectl-cache").display(),
            );
            fs::write(bin.join("kubectl"), kubectl).unwrap();
            fs::set_permissions(bin.join("kubectl"), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut command = Command::new("timeout");
        command.args([&WAIT_TIMEOUT.as_secs().to_string(), "sh", "-c", script]);
        command.env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()));
        command
    }

    fn kubectl_command(&self) -> Command {
        // Without it kubectl waits for ever, as for a namespace that does not end.
        let mut command = Command::new("timeout");
        command.arg(WAIT_TIMEOUT.as_secs().to_string()).arg(self.assets.join("kubectl"));
        command.arg("--kubeconfig").arg(self.admin_kubeconfig());
        command.arg("--cache-dir").arg(self.folder.path().join("kubectl-cache"));
        command
    }

    /// May do everything.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.kubeconfig("admin")
    }

    /// Returns the kubeconfig of [`SERVER_USER`], which has no permission before [`ControlPlane::let_server_read`].
    pub fn server_kubeconfig(&self) -> PathBuf {
        self.kubeconfig("server")
    }

    fn kubeconfig(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.kubeconfig"))
    }

    /// Writes the kubeconfig of one more user; the credential is a line of YAML, as `tokenFile: /x`.
    pub fn write_kubeconfig(&self, name: &str, credential: &str) -> PathBuf {
        let path = self.kubeconfig(name);
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: it\n\
             contexts: [{{name: it, context: {{cluster: it, user: it}}}}]\n\
             clusters: [{{name: it, cluster: {{server: '{}', certificate-authority: '{}'}}}}]\n\
             users: [{{name: it, user: {{{credential}}}}}]\n",
            self.url(),
            self.ca().display(),
        );
        fs::write(&path, text).unwrap();
        path
    }

    /// Gives [`SERVER_USER`] the rights that the server uses at most.
    pub fn let_server_read(&self) {
        self.apply(include_str!("manifests/reader.yaml"));
    }

    pub fn api_port(&self) -> u16 {
        self.ports[2].port()
    }

    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.api_port())
    }

    /// The certificate authority of the API server's certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("certs/apiserver.crt")
    }

    /// The private key (RSA, PEM) that service account tokens are signed with.
    pub fn service_account_key(&self) -> PathBuf {
        self.folder.path().join("sa.key")
    }

    /// Folder for a test's files. `NAME.log` in it is the log of each component.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// One of the binaries that were built.
    pub fn asset(&self, name: &str) -> PathBuf {
        self.assets.join(name)
    }

    /// Copies etcd's data folder as after a kill -9 at this moment; etcd is stopped meanwhile.
    pub fn back_up_etcd(&self, name: &str) -> PathBuf {
        let backup = self.folder.path().join(format!("etcd-{name}"));
        self.etcd.freeze();
        copy(&self.etcd_data(), &backup);
        self.etcd.thaw();
        backup
    }

    /// Starts etcd on a copy of what [`ControlPlane::back_up_etcd`] made: resourceVersions go backwards. Whoever has a
    /// connection to the API server keeps it.
    pub fn restore_etcd(&self, backup: &Path) {
        self.etcd.kill();
        fs::remove_dir_all(self.etcd_data()).unwrap();
        copy(backup, &self.etcd_data());
        self.etcd.start();
    }

    pub fn etcd_data(&self) -> PathBuf {
        self.folder.path().join("etcd")
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let there =
                self.try_kubectl(&["get", "sts,pods,svc,endpointslices", "-A", "-o", "wide", "--request-timeout=5s"]);
            eprintln!("{}", String::from_utf8_lossy(&there.stdout));
            for component in [&self.etcd, &self.api_server, &self.controller_manager] {
                eprintln!("{}", component.last_words());
            }
        }
        // Clients before servers, so that none waits for another.
        self.controller_manager.kill();
        self.api_server.kill();
        self.etcd.kill();
    }
}

/// One process of the control plane. It writes to `NAME.log`, and its process id is in `NAME.pid` while it runs.
pub struct Component {
    name: &'static str,
    program: PathBuf,
    flags: Vec<String>,
    log: PathBuf,
    pid: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Component {
    fn new(name: &'static str, assets: &Path, folder: &Path, flags: Vec<String>) -> Self {
        let [log, pid] = ["log", "pid"].map(|kind| folder.join(format!("{name}.{kind}")));
        Self { name, program: assets.join(name), flags, log, pid, child: Mutex::new(None) }
    }

    /// Starts it with the flags and ports that it had, if it does not run. Does not wait for it.
    pub fn start(&self) {
        let mut child = self.child.lock().unwrap();
        if child.is_some() {
            return;
        }
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = Command::new(&self.program);
        command.args(&self.flags).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let started = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.program.display()));
        fs::write(&self.pid, started.id().to_string()).unwrap();
        *child = Some(started);
    }

    /// Sends SIGKILL, also to a stopped process, and waits for its end. Does nothing if it does not run.
    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            let _ = child.kill();
            let _ = child.wait();
            let _ = fs::remove_file(&self.pid);
        }
    }

    /// kill -9, and started again; does not wait until it is ready.
    pub fn restart(&self) {
        self.kill();
        self.start();
    }

    /// SIGSTOP: its connections stay open and silent.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.process_id().expect("it runs").to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success(), "kill -s {signal} {pid}");
    }

    pub fn process_id(&self) -> Option<u32> {
        self.child.lock().unwrap().as_ref().map(Child::id)
    }

    /// Returns the end of the log, if the process ended by itself.
    fn ended(&self) -> Option<String> {
        let status = self.child.lock().unwrap().as_mut().and_then(|child| child.try_wait().unwrap())?;
        Some(format!("ended, {status}: {}", self.last_words()))
    }

    fn last_words(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        format!("{}:\n{}\n", self.name, lines[lines.len().saturating_sub(12)..].join("\n"))
    }
}

fn etcd_flags(folder: &Path, port: u16, peer_port: u16) -> Vec<String> {
    let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
    vec![
        "--name=it".to_owned(),
        format!("--data-dir={}", folder.join("etcd").display()),
        "--unsafe-no-fsync".to_owned(),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=it={peer}"),
    ]
}

fn api_flags(folder: &Path, etcd_port: u16, port: u16) -> Vec<String> {
    let file = |name: &str| folder.join(name).display().to_string();
    vec![
        format!("--etcd-servers=http://127.0.0.1:{etcd_port}"),
        "--bind-address=127.0.0.1".to_owned(),
        "--advertise-address=127.0.0.1".to_owned(),
        format!("--secure-port={port}"),
        format!("--cert-dir={}", file("certs")),
        format!("--token-auth-file={}", file("tokens")),
        "--authorization-mode=RBAC".to_owned(),
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        "--endpoint-reconciler-type=none".to_owned(),
        format!("--service-cluster-ip-range={SERVICE_RANGES}"),
        format!("--service-account-issuer={ISSUER}"),
        format!("--service-account-key-file={}", file("sa.pub")),
        format!("--service-account-signing-key-file={}", file("sa.key")),
    ]
}

fn manager_flags(folder: &Path) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", folder.join("admin.kubeconfig").display()),
        format!("--controllers={CONTROLLERS}"),
        "--leader-elect=false".to_owned(),
        "--kube-api-qps=500".to_owned(),
        "--kube-api-burst=1000".to_owned(),
        "--secure-port=0".to_owned(),
    ]
}

fn write_keys_and_tokens(folder: &Path) {
    let (key, public) = (folder.join("sa.key"), folder.join("sa.pub"));
    let bits = "rsa_keygen_bits:2048";
    openssl(Command::new("openssl").args(["genpkey", "-algorithm", "RSA", "-pkeyopt", bits, "-out"]).arg(&key));
    openssl(Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&key).arg("-out").arg(&public));
    let namespace = SERVER_USER.split(':').nth(2).unwrap();
    let groups = format!("system:serviceaccounts,system:serviceaccounts:{namespace},system:authenticated");
    let tokens =
        format!("admin-token,admin,admin-uid,system:masters\nserver-token,{SERVER_USER},server-uid,\"{groups}\"\n");
    fs::write(folder.join("tokens"), tokens).unwrap();
}

fn openssl(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "openssl: {}", stderr(&output));
}

/// Where `tests/cluster/run` looks for processes that are left over.
pub fn work_folder() -> PathBuf {
    std::env::var_os("TEST_HEADLESS_DNS_CLUSTER").map_or_else(std::env::temp_dir, PathBuf::from)
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success(), "cp -a {} {}", from.display(), to.display());
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

/// Time limit for a component to be ready again, restarts included.
pub const READY_AGAIN: Duration = WAIT_TIMEOUT;
