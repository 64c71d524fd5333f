//! A strict parser of `/metrics`: order, repetitions, and the invariants of histograms.

use std::collections::{BTreeMap, BTreeSet};

use headless_dns::metrics::ExpositionFormat;
use headless_dns::metrics::table::{FAMILIES, MetricFamily, MetricKind};

/// Labels in the order of their names.
pub(crate) type Labels = Vec<(&'static str, String)>;

/// One answer of `/metrics`.
pub(crate) struct Scrape {
    /// By the name that the table has.
    pub(crate) kinds: BTreeMap<String, String>,
    pub(crate) helps: BTreeMap<String, String>,
    pub(crate) samples: BTreeMap<(String, Labels), f64>,
}

impl Scrape {
    pub(crate) fn read(text: &str, format: ExpositionFormat) -> Self {
        let text = match format {
            ExpositionFormat::Text => text,
            ExpositionFormat::OpenMetrics => text.strip_suffix("# EOF\n").expect("the end mark"),
        };
        let mut scrape = Self { kinds: BTreeMap::new(), helps: BTreeMap::new(), samples: BTreeMap::new() };
        let mut current = None;
        for line in text.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let [what, name, rest] = comment.splitn(3, ' ').collect::<Vec<_>>().try_into().unwrap();
                let family = announced(name, format);
                let (known, value) = match what {
                    "HELP" => (&mut scrape.helps, rest),
                    "TYPE" => (&mut scrape.kinds, rest),
                    _ => panic!("{line}"),
                };
                assert!(known.insert(family.name.to_owned(), value.to_owned()).is_none(), "{line} stands there twice");
                current = Some(family);
            } else {
                let (name, labels, value) = sample(line);
                let family = current.expect("a family is announced first");
                assert!(is_of(&name, family), "{line} stands below {}", family.name);
                assert!(scrape.samples.insert((name, labels), value).is_none(), "{line} stands there twice");
            }
        }
        scrape.check_histograms();
        scrape
    }

    fn check_histograms(&self) {
        let mut buckets: BTreeMap<(&str, Labels), Vec<(f64, f64)>> = BTreeMap::new();
        for ((name, labels), value) in &self.samples {
            let Some(name) = name.strip_suffix("_bucket") else { continue };
            let (bound, others): (Labels, Labels) = labels.iter().cloned().partition(|(name, _)| *name == "le");
            let bound = if bound[0].1 == "+Inf" { f64::INFINITY } else { bound[0].1.parse().unwrap() };
            buckets.entry((name, others)).or_default().push((bound, *value));
        }
        for ((name, labels), mut buckets) in buckets {
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{name}: {buckets:?}");
            let last = buckets.last().unwrap();
            assert_eq!(last.0, f64::INFINITY, "{name}");
            assert_eq!(last.1, self.samples[&(format!("{name}_count"), labels)], "{name}");
        }
    }

    /// Returns the series of a name, with whole numbers, without those that are 0.
    pub(crate) fn counts(&self, name: &str) -> BTreeMap<Labels, u64> {
        let whole = |value: &f64| (value.fract() == 0.0).then_some(*value as u64).expect("a whole number");
        let all = self.samples.iter().filter(|((known, _), _)| known == name);
        all.map(|((_, labels), value)| (labels.clone(), whole(value))).filter(|(_, count)| *count > 0).collect()
    }

    pub(crate) fn value(&self, name: &str, labels: &[(&'static str, &str)]) -> f64 {
        let mut labels: Labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        labels.sort();
        let found = self.samples.get(&(name.to_owned(), labels.clone()));
        *found.unwrap_or_else(|| panic!("no {name} {labels:?}"))
    }

    pub(crate) fn sum(&self, name: &str) -> f64 {
        self.samples.iter().filter(|((known, _), _)| known == name).map(|(_, value)| value).sum()
    }

    /// Returns the samples that never decrease.
    pub(crate) fn growing(&self) -> impl Iterator<Item = (&(String, Labels), &f64)> {
        let grows = |name: &str| {
            let family = FAMILIES.iter().find(|family| is_of(name, family)).unwrap();
            !matches!(family.kind, MetricKind::Gauge)
        };
        self.samples.iter().filter(move |((name, _), _)| grows(name))
    }
}

/// Returns whether a sample belongs to the metric family.
pub(crate) fn is_of(name: &str, family: &MetricFamily) -> bool {
    match family.kind {
        MetricKind::Counter | MetricKind::Gauge => name == family.name,
        MetricKind::Histogram(_) => {
            ["_bucket", "_sum", "_count"].iter().any(|end| name.strip_suffix(end) == Some(family.name))
        }
    }
}

fn announced(name: &str, format: ExpositionFormat) -> &'static MetricFamily {
    let same = |family: &&&MetricFamily| match (format, family.kind) {
        (ExpositionFormat::OpenMetrics, MetricKind::Counter) => family.name.strip_suffix("_total") == Some(name),
        _ => family.name == name,
    };
    FAMILIES.iter().find(same).unwrap_or_else(|| panic!("{name} is in no table"))
}

/// `name{label="value",...} number`
fn sample(line: &str) -> (String, Labels, f64) {
    let (series, number) = line.rsplit_once(' ').unwrap();
    let (name, labels) = match series.split_once('{') {
        None => (series, Vec::new()),
        Some((name, labels)) => (name, read_labels(labels.strip_suffix('}').unwrap())),
    };
    let names: BTreeSet<&str> = labels.iter().map(|(name, _)| *name).collect();
    assert_eq!(names.len(), labels.len(), "{line}");
    (name.to_owned(), labels, number.parse().unwrap())
}

fn read_labels(mut text: &str) -> Labels {
    let mut labels = Labels::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"").unwrap();
        let mut known = FAMILIES.iter().flat_map(|family| family.labels).copied().chain(["le"]);
        let name = known.find(|known| *known == name).unwrap_or_else(|| panic!("{name}"));
        let (mut value, mut letters) = (String::new(), rest.char_indices());
        let end = loop {
            match letters.next().expect("a quote at the end") {
                (at, '"') => break at,
                (_, '\\') => value.push(match letters.next().unwrap().1 {
                    'n' => '\n',
                    letter => letter,
                }),
                (_, letter) => value.push(letter),
            }
        };
        labels.push((name, value));
        text = rest[end + 1..].strip_prefix(',').unwrap_or(&rest[end + 1..]);
    }
    labels.sort();
    labels
}
