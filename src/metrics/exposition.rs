//! The exposition formats: Prometheus's text format (0.0.4) and OpenMetrics (1.0).
//!
//! prometheus-client writes OpenMetrics; the text format differs from it in the HELP and TYPE lines of counters. Not here:
//! the values (`mod.rs`), and the HTTP of `/metrics` (`admin`).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::{self, Write as _};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::table::{FAMILIES, MetricFamily, MetricKind};

/// An exposition format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpositionFormat {
    /// Prometheus text format 0.0.4, the default.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl ExpositionFormat {
    /// Returns the format for an `Accept` header field.
    pub fn accepted(accept: Option<&str>) -> Self {
        let wants = |part: &str| {
            let mut parameters = part.split(';').map(str::trim);
            let named = parameters.next().is_some_and(|name| name.eq_ignore_ascii_case("application/openmetrics-text"));
            let refused = |parameter: &str| matches!(parameter, "q=0" | "q=0.0" | "q=0.00" | "q=0.000");
            named && !parameters.any(refused)
        };
        if accept.is_some_and(|accept| accept.split(',').any(|part| wants(part.trim()))) {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }

    /// Returns the value of the Content-Type header field.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The value of one series.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Counter(f64),
    Gauge(f64),
    /// Number of observations in each bucket (one more than there are bounds), and their sum.
    Histogram(Vec<u64>, f64),
}

impl Value {
    /// Adds the value of another source of this series.
    fn add(&mut self, other: Self) {
        match (self, other) {
            (Self::Counter(sum), Self::Counter(more)) | (Self::Gauge(sum), Self::Gauge(more)) => *sum += more,
            (Self::Histogram(buckets, sum), Self::Histogram(more, more_sum)) => {
                buckets.iter_mut().zip(more).for_each(|(bucket, more)| *bucket += more);
                *sum += more_sum;
            }
            _ => {}
        }
    }
}

/// All series by family.
#[derive(Clone, Debug, Default)]
pub(super) struct Families(Vec<(&'static MetricFamily, BTreeMap<Labels, Value>)>);

type Labels = Vec<(&'static str, String)>;

impl Families {
    /// Sets the value of a series.
    pub(super) fn set(&mut self, family: &'static MetricFamily, values: &[&str], value: Value) {
        let labels = labels(family, values);
        self.family(family).insert(labels, value);
    }

    /// Removes a series. A family without series is not announced.
    pub(super) fn remove(&mut self, family: &'static MetricFamily, values: &[&str]) {
        self.family(family).remove(&labels(family, values));
        self.0.retain(|(_, series)| !series.is_empty());
    }

    /// Adds a series; values with equal labels are summed.
    pub(super) fn add(&mut self, family: &'static MetricFamily, values: &[&str], value: Value) {
        match self.family(family).entry(labels(family, values)) {
            Entry::Vacant(entry) => _ = entry.insert(value),
            Entry::Occupied(mut entry) => entry.get_mut().add(value),
        }
    }

    fn family(&mut self, family: &'static MetricFamily) -> &mut BTreeMap<Labels, Value> {
        let known = self.0.iter().position(|(known, _)| known.name == family.name);
        let at = known.unwrap_or_else(|| {
            self.0.push((family, BTreeMap::new()));
            self.0.len() - 1
        });
        &mut self.0[at].1
    }

    /// Renders all series, in the order of the table and of the labels.
    pub(super) fn write(mut self, format: ExpositionFormat) -> String {
        self.0.sort_by_key(|(family, _)| FAMILIES.iter().position(|known| known.name == family.name));
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut written = String::new();
        // Writing to a String cannot fail.
        let _ = text::encode(&mut written, &registry);
        match format {
            ExpositionFormat::OpenMetrics => written,
            ExpositionFormat::Text => as_text(&written),
        }
    }
}

fn labels(family: &MetricFamily, values: &[&str]) -> Labels {
    debug_assert_eq!(values.len(), family.labels.len(), "{}", family.name);
    family.labels.iter().copied().zip(values.iter().map(|value| escaped(value))).collect()
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for (family, series) in &self.0 {
            let (name, kind) = match family.kind {
                MetricKind::Counter => (announced(family), MetricType::Counter),
                MetricKind::Gauge => (family.name, MetricType::Gauge),
                MetricKind::Histogram(_) => (family.name, MetricType::Histogram),
            };
            let mut encoder = encoder.encode_descriptor(name, family.help, None, kind)?;
            for (labels, value) in series {
                // Without labels there are no braces.
                match labels.as_slice() {
                    [] => encode(&mut encoder, family, value)?,
                    _ => encode(&mut encoder.encode_family(labels)?, family, value)?,
                }
            }
        }
        Ok(())
    }
}

fn encode(encoder: &mut MetricEncoder<'_>, family: &MetricFamily, value: &Value) -> fmt::Result {
    match (value, family.kind) {
        (Value::Counter(count), _) if count.fract() == 0.0 => {
            encoder.encode_counter::<NoLabelSet, _, u64>(&(*count as u64), None)
        }
        (Value::Counter(count), _) => encoder.encode_counter::<NoLabelSet, _, u64>(count, None),
        (Value::Gauge(value), _) if value.fract() == 0.0 && value.abs() < 1e15 => {
            encoder.encode_gauge(&(*value as i64))
        }
        (Value::Gauge(value), _) => encoder.encode_gauge(value),
        (Value::Histogram(buckets, sum), MetricKind::Histogram(bounds)) => {
            let bounds = bounds.iter().copied().chain([f64::MAX]);
            let buckets: Vec<(f64, u64)> = bounds.zip(buckets.iter().copied()).collect();
            let count = buckets.iter().map(|(_, count)| count).sum();
            encoder.encode_histogram::<NoLabelSet>(*sum, count, &buckets, None)
        }
        (Value::Histogram(..), _) => Ok(()),
    }
}

/// Returns the name by which OpenMetrics announces a family; the samples of a counter add `_total`.
fn announced(family: &MetricFamily) -> &'static str {
    family.name.strip_suffix("_total").unwrap_or(family.name)
}

/// Converts OpenMetrics to the text format: counters are announced with `_total`, and there is no end mark.
fn as_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines().filter(|line| *line != "# EOF") {
        let announces = |family: &&&MetricFamily| {
            let mut words = line.split(' ');
            family.kind == MetricKind::Counter
                && words.next() == Some("#")
                && words.next().is_some_and(|word| matches!(word, "HELP" | "TYPE"))
                && words.next() == Some(announced(family))
        };
        let line = match FAMILIES.iter().find(announces) {
            Some(family) => line.replacen(announced(family), family.name, 1),
            None => line.to_owned(),
        };
        let _ = writeln!(text, "{line}");
    }
    text
}

/// Escapes a label's value, as both formats require and prometheus-client does not.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::table::{DROPPED, SERIAL};

    #[test]
    fn negotiates_open_metrics() {
        for (accept, format) in [
            (None, ExpositionFormat::Text),
            (Some("*/*"), ExpositionFormat::Text),
            (Some("text/plain;version=0.0.4;q=0.5,*/*;q=0.1"), ExpositionFormat::Text),
            (Some("application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.5"), ExpositionFormat::OpenMetrics),
            (Some("application/openmetrics-text;q=0, text/plain"), ExpositionFormat::Text),
            (Some("text/html, Application/OpenMetrics-Text; version=0.0.1"), ExpositionFormat::OpenMetrics),
        ] {
            assert_eq!(ExpositionFormat::accepted(accept), format, "{accept:?}");
        }
    }

    #[test]
    fn omits_metadata_of_removed_metrics() {
        let mut families = Families::default();
        families.set(&SERIAL, &[], Value::Gauge(1.0));
        families.add(&DROPPED, &["a"], Value::Counter(1.0));
        families.add(&DROPPED, &["b"], Value::Counter(2.0));
        for _ in 0..2 {
            families.remove(&SERIAL, &[]);
            families.remove(&DROPPED, &["a"]);
        }
        let text = families.write(ExpositionFormat::Text);
        assert!(text.ends_with(" counter\nheadless_dns_dropped_messages_total{reason=\"b\"} 2\n"), "{text}");
        assert!(!text.contains(SERIAL.name), "{text}");
    }

    #[test]
    fn renders_both_formats() {
        let families = || {
            let mut families = Families::default();
            families.add(&SERIAL, &[], Value::Gauge(1.5));
            families.add(&DROPPED, &["a\"b\\c\nd"], Value::Counter(2.0));
            families.add(&DROPPED, &["a"], Value::Counter(1.0));
            families.add(&DROPPED, &["a"], Value::Counter(4.0));
            families
        };
        let (dropped, serial) = (DROPPED.help, SERIAL.help);
        let samples = "headless_dns_dropped_messages_total{reason=\"a\"} 5\n\
             headless_dns_dropped_messages_total{reason=\"a\\\"b\\\\c\\nd\"} 2\n";
        assert_eq!(
            families().write(ExpositionFormat::OpenMetrics),
            format!(
                "# HELP headless_dns_zone_serial {serial}\n# TYPE headless_dns_zone_serial gauge\n\
                 headless_dns_zone_serial 1.5\n\
                 # HELP headless_dns_dropped_messages {dropped}\n# TYPE headless_dns_dropped_messages counter\n\
                 {samples}# EOF\n"
            )
        );
        assert_eq!(
            families().write(ExpositionFormat::Text),
            format!(
                "# HELP headless_dns_zone_serial {serial}\n# TYPE headless_dns_zone_serial gauge\n\
                 headless_dns_zone_serial 1.5\n\
                 # HELP headless_dns_dropped_messages_total {dropped}\n\
                 # TYPE headless_dns_dropped_messages_total counter\n{samples}"
            )
        );
    }
}
