//! Manifests: files of YAML or JSON -> objects, read again when a file changes.
//!
//! [`Manifests`] keeps the last good content of each file, so that a file in the middle of an edit removes nothing.
//! [`ManifestWatcher`] reports changes. `files.rs` finds and reads the files, `documents.rs` parses one file, `watch.rs` is the
//! watcher; read them in this order. Not here: fields of objects (`objects`), and Pods of workloads (`simulate`).
//! Reading blocks: call it where blocking is allowed.

mod documents;
mod files;
mod watch;

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use documents::{ManifestDocument, TEMPLATE_START};
use files::{EntryKind, ReadError};
use headless_dns_core::object::{self, Decoded, Object, ObjectRef, Reason, Subject};

pub use watch::ManifestWatcher;

/// Error of a template: the text is no YAML, or its names are no names.
const TEMPLATE_ERROR: &str = "the file is a template ({{ }}) and no manifest: render it first (helm template)";

/// Default maximum size of one file, in octets.
pub const MAX_SIZE: u64 = 64 << 20;

/// Content of all files after a load.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Objects, one of each kind, namespace and name.
    pub objects: Vec<Object>,
    /// Errors of files and documents, and parts of objects that are left out.
    pub reports: Vec<Report>,
    /// Paths of the options that cannot be opened, and files of the options without one readable document.
    pub unusable: Vec<Report>,
    /// Number of objects of kinds that are not read.
    pub ignored: usize,
    /// Number of files with content, of this load or an earlier one.
    pub files: usize,
}

/// One error in a file. Its [`Display`](fmt::Display) is one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The file's path as given, or `standard input`.
    pub file: Arc<str>,
    /// Number of the document in the file, from 1, if the error is in one.
    pub document: Option<usize>,
    /// Line of the file, from 1: of the error, or of the beginning of the document.
    pub line: Option<usize>,
    /// Kind of error.
    pub cause: Cause,
    /// Objects that the error may concern.
    pub subject: Subject,
    /// Error and consequence, without the location.
    pub text: String,
}

/// Kind of error of a [`Report`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A file or folder that does not exist, cannot be read, is too large or not UTF-8.
    Unreadable,
    /// A document that is neither YAML nor JSON.
    Syntax,
    /// A document that is no object of its kind.
    Invalid,
    /// An object that is defined more than once, and differently.
    Duplicate,
    /// A part of an object that is not served.
    Skipped(Reason),
    /// A workload of a kind that is not simulated.
    NotSimulated,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(document) = self.document {
            write!(f, ", document {document}")?;
        }
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        write!(f, ": {}", self.text)
    }
}

impl Report {
    /// Returns whether objects that the files define may be missing.
    pub fn is_unread(&self) -> bool {
        matches!(self.cause, Cause::Unreadable | Cause::Syntax)
    }
}

/// Manifests of some paths, with the state of each file.
#[derive(Debug)]
pub struct Manifests {
    paths: Vec<PathBuf>,
    namespace: Box<str>,
    max_size: u64,
    files: Vec<FileState>,
}

/// State of one file: its content when it was last read without a syntax error (or, the first time, despite them).
#[derive(Debug)]
struct FileState {
    path: PathBuf,
    name: Arc<str>,
    /// Digest of the last text, valid or not: an equal text is not parsed again.
    digest: Option<u64>,
    content: Content,
    /// Errors that keep the present text of the file out of service.
    errors: Vec<Report>,
}

#[derive(Debug, Default)]
struct Content {
    objects: Vec<Located>,
    reports: Vec<Report>,
    ignored: usize,
    /// Number of documents that are a mapping or a sequence, as every manifest is.
    readable: usize,
}

#[derive(Debug)]
struct Located {
    object: Object,
    document: usize,
    line: usize,
}

impl Manifests {
    /// Returns the manifests at `paths`, of which nothing is read yet: files, folders (their `*.yaml`, `*.yml` and
    /// `*.json`, recursively, sorted, without hidden ones), pipes, and `-` for standard input. `namespace` is for
    /// objects without one; `max_size` bounds one file, in octets.
    pub fn new(paths: Vec<PathBuf>, namespace: &str, max_size: u64) -> Self {
        Self { paths, namespace: namespace.into(), max_size, files: Vec::new() }
    }

    /// Reads the files, for the first time or again.
    ///
    /// The first time, every valid document of a file counts. Later, a file with a syntax error, or one that cannot be
    /// read, keeps its previous objects; an invalid object is left out alone; a removed file takes its objects along,
    /// and a new one adds its own. Streams are read the first time only.
    pub fn reload(&mut self) -> Loaded {
        let mut before: Vec<Option<FileState>> = std::mem::take(&mut self.files).into_iter().map(Some).collect();
        let index: HashMap<PathBuf, usize> =
            before.iter().enumerate().filter_map(|(at, file)| Some((file.as_ref()?.path.clone(), at))).collect();
        let mut old = |path: &Path| before[*index.get(path)?].take();
        let mut loaded = Loaded::default();
        for files::ManifestEntry { path, is_named, kind } in files::list(&self.paths) {
            let is_stream = matches!(kind, EntryKind::Stream);
            let read = match kind {
                EntryKind::File => self.read(&path, is_stream, old(&path)),
                EntryKind::Stream => old(&path).map_or_else(|| self.read(&path, is_stream, None), Ok),
                EntryKind::Missing => Err(unreadable(&path, "there is no such file or folder")),
                EntryKind::Empty => {
                    // The folder may be filled later.
                    loaded.reports.push(unreadable(&path, "the folder holds no *.yaml, *.yml or *.json file"));
                    continue;
                }
                EntryKind::Other(kind) => {
                    let text = format!("the path is {kind}: give a file, a folder, a pipe, or - for standard input");
                    Err(unreadable(&path, &text))
                }
                EntryKind::Unreadable(error) => {
                    let mut below: Vec<&PathBuf> = index.keys().filter(|known| known.starts_with(&path)).collect();
                    below.sort();
                    self.files.extend(below.into_iter().filter_map(|known| old(known)));
                    Err(unreadable(&path, &format!("it cannot be read: {error}")))
                }
            };
            match read {
                Ok(state) => {
                    loaded.unusable.extend(is_named.then(|| state.unusable()).flatten());
                    self.files.push(state);
                }
                Err(report) => {
                    loaded.unusable.extend(is_named.then(|| report.clone()));
                    loaded.reports.push(report);
                }
            }
        }
        merge(&self.files, &mut loaded);
        loaded
    }

    /// Reads one file, or keeps its previous content. Returns an error if the file is gone, or was never read.
    fn read(&self, path: &Path, is_stream: bool, old: Option<FileState>) -> Result<FileState, Report> {
        match (files::read(path, is_stream, self.max_size), old) {
            (Ok(text), Some(state)) if state.digest == Some(digest(&text)) => Ok(state),
            (Ok(text), old) => Ok(self.parse(path, text, old)),
            (Err(wrong), Some(state)) if !matches!(wrong, ReadError::Gone) => {
                let errors = vec![keep_content(self.read_error(path, &wrong))];
                Ok(FileState { digest: None, errors, ..state })
            }
            (Err(wrong), _) => Err(self.read_error(path, &wrong)),
        }
    }

    fn parse(&self, path: &Path, text: String, old: Option<FileState>) -> FileState {
        let digest = Some(digest(&text));
        let name = display_name(path);
        let documents = documents::read(&text);
        drop(text); // may be as large as the objects, which are made next
        let mut content = Content::default();
        let errors = content.add_documents(documents, &name, &self.namespace);
        match old {
            Some(state) if !errors.is_empty() => {
                FileState { digest, errors: errors.into_iter().map(keep_content).collect(), ..state }
            }
            _ => FileState { path: path.to_owned(), name, digest, content, errors },
        }
    }

    fn read_error(&self, path: &Path, wrong: &ReadError) -> Report {
        let report = unreadable(path, "");
        match wrong {
            ReadError::Gone => Report { text: "there is no such file".into(), ..report },
            ReadError::TooLarge => {
                let text = format!(
                    "the file has more than {} octets and is not read: split it, or raise --max-manifest-size",
                    self.max_size
                );
                Report { text, ..report }
            }
            ReadError::NotUtf8(line) => Report { line: Some(*line), text: "the file is not UTF-8".into(), ..report },
            ReadError::Other(error) => Report { text: format!("it cannot be read: {error}"), ..report },
        }
    }
}

impl FileState {
    /// Returns the error of a file without one readable document.
    fn unusable(&self) -> Option<Report> {
        if self.content.readable > 0 {
            return None;
        }
        let mut report =
            self.errors.first().cloned().unwrap_or_else(|| unreadable(&self.path, "the file has no document"));
        if report.document.is_some() {
            report.text += "; no document of the file can be read";
        }
        Some(report)
    }
}

/// Parses one text that is no file, such as the built-in example. Reports give `name` in place of a path.
pub fn read_text(name: &str, text: &str, namespace: &str) -> Loaded {
    let name: Arc<str> = name.into();
    let mut content = Content::default();
    let errors = content.add_documents(documents::read(text), &name, namespace);
    let file = FileState { path: PathBuf::new(), name, digest: None, content, errors };
    let mut loaded = Loaded::default();
    merge(&[file], &mut loaded);
    loaded
}

/// Location of a document.
#[derive(Clone, Copy)]
struct SourceLocation<'n> {
    file: &'n Arc<str>,
    document: usize,
    line: usize,
}

impl SourceLocation<'_> {
    fn report(self, cause: Cause, text: String) -> Report {
        Report {
            file: Arc::clone(self.file),
            document: Some(self.document),
            line: Some(self.line),
            cause,
            subject: Subject::Unknown,
            text,
        }
    }
}

impl Content {
    /// Adds the documents of a file, and returns the errors of those that cannot be read.
    fn add_documents(&mut self, documents: Vec<ManifestDocument>, file: &Arc<str>, namespace: &str) -> Vec<Report> {
        let mut errors = Vec::new();
        for document in documents {
            let (has_template, invalid) = (document.has_template, self.reports.len());
            let first = errors.len();
            self.add_document(document, file, namespace, &mut errors);
            // Errors about a text that is not rendered yet are replaced by one about rendering.
            let is_template = |report: &Report| report.cause == Cause::Invalid && report.text.contains(TEMPLATE_START);
            if has_template {
                errors.extend(self.reports.extract_if(invalid.., |report| is_template(report)));
                for report in &mut errors[first..] {
                    (report.cause, report.subject, report.text) =
                        (Cause::Syntax, Subject::Unknown, TEMPLATE_ERROR.into());
                }
            }
        }
        // One sentence about templates per file.
        let mut is_first = true;
        errors.retain(|report| report.text != TEMPLATE_ERROR || std::mem::take(&mut is_first));
        errors
    }

    fn add_document(&mut self, document: ManifestDocument, file: &Arc<str>, namespace: &str, errors: &mut Vec<Report>) {
        let place = SourceLocation { file, document: document.number, line: document.line };
        match document.value {
            Ok(value) => {
                self.readable += usize::from(value.is_object() || value.is_array());
                self.add(value, place, namespace, "");
            }
            Err(wrong) => {
                let subject = if wrong.names.is_empty() { Subject::Unknown } else { Subject::Names(wrong.names) };
                errors.push(Report { subject, ..place.report(Cause::Syntax, wrong.error) });
            }
        }
    }

    /// Adds one document. `item` is the prefix of sentences about an item of a list.
    fn add(&mut self, value: Value, place: SourceLocation<'_>, namespace: &str, item: &str) {
        let key = object::key(&value, namespace);
        let not_simulated = key.as_ref().and_then(|key| not_simulated(&value, key));
        let subject = Subject::from(key);
        let decoded = match value {
            // A bare array is no Kubernetes object, but can only be a list of objects.
            Value::Array(mut items) => {
                items.retain(Value::is_object);
                Ok(Decoded::List(items))
            }
            value => match object::violations(&value) {
                violations if violations.is_empty() => object::decode(value, namespace),
                violations => Err(object::Invalid::new(&value, namespace, &violations)),
            },
        };
        match decoded {
            Ok(Decoded::Object(object, skipped)) => {
                let reports = skipped.into_iter().map(|part| Report {
                    subject: part.object.into(),
                    ..place.report(Cause::Skipped(part.reason), part.text)
                });
                self.reports.extend(reports);
                self.objects.push(Located { object, document: place.document, line: place.line });
            }
            Ok(Decoded::List(items)) => {
                for (index, value) in items.into_iter().enumerate() {
                    self.add(value, place, namespace, &format!("{item}item {} of the list: ", index + 1));
                }
            }
            Ok(Decoded::Ignored) => {
                self.ignored += 1;
                let report = |text| Report { subject, ..place.report(Cause::NotSimulated, text) };
                self.reports.extend(not_simulated.map(report));
            }
            Err(invalid) => {
                let report = place.report(Cause::Invalid, format!("{item}{invalid}; it is left out"));
                self.reports.push(Report { subject, ..report });
            }
        }
    }
}

/// Returns the sentence about an object that has a Pod template, but is of a kind that is not read.
fn not_simulated(value: &Value, key: &ObjectRef) -> Option<String> {
    let kind = value.get("kind")?.as_str().filter(|kind| !object::is_read(value, kind))?;
    let containers = value.pointer("/spec/template/spec/containers").filter(|containers| containers.is_array());
    containers.map(|_| format!("{kind} {key} has a Pod template, and this kind is not simulated: it gets no Pods"))
}

/// Merges the files: of objects with equal kind, namespace and name the last one counts.
fn merge(files: &[FileState], loaded: &mut Loaded) {
    let mut chosen: Vec<(&FileState, &Located)> = Vec::new();
    let mut index = HashMap::new();
    for file in files {
        loaded.files += 1;
        loaded.ignored += file.content.ignored;
        loaded.reports.extend(file.errors.iter().chain(&file.content.reports).cloned());
        for placed in &file.content.objects {
            let object = &placed.object;
            let at = *index.entry((object.kind(), object.namespace(), object.name())).or_insert(chosen.len());
            if at == chosen.len() {
                chosen.push((file, placed));
                continue;
            }
            let (other_file, other) = std::mem::replace(&mut chosen[at], (file, placed));
            if other.object != *object {
                loaded.reports.push(duplicate(file, placed, other_file, other));
            }
        }
    }
    loaded.objects.extend(chosen.into_iter().map(|(_, placed)| placed.object.clone()));
}

fn duplicate(file: &FileState, placed: &Located, other_file: &FileState, other: &Located) -> Report {
    let object = &placed.object;
    let name = match object {
        Object::Namespace(namespace) => namespace.name.to_string(),
        _ => format!("{}/{}", object.namespace(), object.name()),
    };
    let text = format!(
        "{} {name} is defined here and, differently, in {}, document {}, line {}; the definition here counts",
        object.kind(),
        other_file.name,
        other.document,
        other.line
    );
    let place = SourceLocation { file: &file.name, document: placed.document, line: placed.line };
    let subject = Subject::Object(ObjectRef::new(object.namespace(), object.name()));
    Report { subject, ..place.report(Cause::Duplicate, text) }
}

fn unreadable(path: &Path, text: &str) -> Report {
    Report {
        file: display_name(path),
        document: None,
        line: None,
        cause: Cause::Unreadable,
        subject: Subject::Unknown,
        text: text.into(),
    }
}

fn keep_content(mut report: Report) -> Report {
    report.text += "; the previous content of the file stays in service";
    report
}

fn display_name(path: &Path) -> Arc<str> {
    if path.as_os_str() == files::STDIN { "standard input".into() } else { path.display().to_string().into() }
}

fn digest(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
