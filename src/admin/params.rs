//! The parameters of requests, parsed from the query string. Not here: the responses (`routes.rs`).

use crate::config::{NameSpec, Output, values};
use headless_dns_core::name::WireName;
use headless_dns_core::rtype;

/// A query to explain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExplainParams {
    pub(super) name: NameSpec,
    pub(super) qtype: u16,
    /// Namespace of the client; `None` for the server's default.
    pub(super) namespace: Option<Box<str>>,
}

impl ExplainParams {
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let params = QueryParams::parse(query, &["name", "type", "namespace"])?;
        Self::new(params.get("name"), params.get("type"), params.get("namespace"))
    }

    /// Parses the values by the rules of the command `explain`. An empty value counts as absent.
    fn new(name: &str, qtype: &str, namespace: &str) -> Result<Self, String> {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let name: NameSpec = given(name).ok_or("name is missing: ?name=NAME&type=A")?.parse()?;
        let qtype = given(qtype).map(|qtype| rtype::parse(&qtype)).transpose()?;
        let namespace = given(namespace).map(|text| values::namespace(&text)).transpose()?;
        Ok(Self { qtype: qtype.unwrap_or_else(|| name.usual_type()), name, namespace })
    }
}

/// A zone to export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RecordsParams {
    /// Origin of the zone; `None` for the first one.
    pub(super) origin: Option<WireName>,
    /// Format of the records.
    pub(super) output: Output,
}

impl RecordsParams {
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let params = QueryParams::parse(query, &["origin", "o"])?;
        let origin = params.find("origin").map(WireName::parse).transpose()?;
        let output = params.find("o").map(str::parse).transpose()?;
        Ok(Self { origin, output: output.unwrap_or_default() })
    }
}

/// Parameters of the status page. The page shows an invalid query with its error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PageParams {
    /// Name, type and namespace as they were entered.
    pub(super) entered: [String; 3],
    /// The parsed query; `None` without a name.
    pub(super) explain: Option<Result<ExplainParams, String>>,
    /// Substring of the namespace or name of the Services to list.
    pub(super) filter: String,
    /// Page of that list, from 1.
    pub(super) page: usize,
}

impl PageParams {
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let params = QueryParams::parse(query, &["name", "type", "namespace", "q", "page"])?;
        let entered = ["name", "type", "namespace"].map(|name| params.get(name).trim().to_owned());
        let [name, qtype, namespace] = &entered;
        let explain = (!name.is_empty()).then(|| ExplainParams::new(name, qtype, namespace));
        let page = params.find("page").map_or(Ok(1), str::parse).unwrap_or_default();
        if page == 0 {
            return Err("page is no whole number from 1".into());
        }
        Ok(Self { explain, filter: params.get("q").trim().to_ascii_lowercase(), page, entered })
    }
}

/// Returns an error if a query string has any parameter.
pub(super) fn expect_none(query: &str) -> Result<(), String> {
    QueryParams::parse(query, &[]).map(drop)
}

/// Returns whether a query string has the parameter `verbose`. Others are ignored: a refused probe would restart a
/// server that works.
pub(super) fn is_verbose(query: &str) -> bool {
    form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == "verbose")
}

/// The parameters of a query string. Each is known, and occurs once.
struct QueryParams(Vec<(String, String)>);

impl QueryParams {
    fn parse(query: &str, known: &[&str]) -> Result<Self, String> {
        let mut params: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()).into_owned() {
            if !known.contains(&name.as_str()) {
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(format!("there is no parameter {:?} here; there are: {known}", shortened(&name)));
            }
            if params.iter().any(|(other, _)| *other == name) {
                return Err(format!("the parameter {name} is given twice"));
            }
            params.push((name, value));
        }
        Ok(Self(params))
    }

    fn find(&self, wanted: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }

    /// Returns the value of a parameter; empty if it is absent.
    fn get(&self, wanted: &str) -> &str {
        self.find(wanted).unwrap_or_default()
    }
}

/// Shortens a text of the client to the length of a line.
pub(super) fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_invalid_queries() {
        let explain = |query: &str| ExplainParams::parse(query).map(drop);
        let records = |query: &str| RecordsParams::parse(query).map(drop);
        let page = |query: &str| PageParams::parse(query).map(drop);
        for (parsed, expected) in [
            (expect_none("x=1"), "there is no parameter \"x\" here; there are: none"),
            (records("o=xml"), "xml"),
            (records("origin=a..b"), "\"a..b\" is not a domain name"),
            (records("o=json&o=zone"), "the parameter o is given twice"),
            (explain(""), "name is missing"),
            (explain("name="), "name is missing"),
            (explain("name=a..b"), "\"a..b\" is not a domain name"),
            (explain("name=a&type=AXFR"), "\"AXFR\" is not a record type"),
            (explain("name=a&namespace=a.b"), "\"a.b\" is not a namespace"),
            (page("page=0"), "page is no whole number from 1"),
            (page("page=x"), "page is no whole number from 1"),
            (page("nonsense"), "there is no parameter \"nonsense\" here; there are: name, type, namespace, q, page"),
        ] {
            let sentence = parsed.unwrap_err();
            assert!(sentence.contains(expected) && !sentence.contains('\n'), "{expected}: {sentence}");
        }
    }

    #[test]
    fn parses_valid_queries() {
        let params = ExplainParams::parse("name=_http._tcp.web&namespace=shop").unwrap();
        assert_eq!((params.name.to_string().as_str(), params.qtype), ("_http._tcp.web", rtype::SRV));
        assert_eq!(params.namespace.as_deref(), Some("shop"));
        let params = PageParams::parse("name=a..b&q=%20Web&page=2").unwrap();
        assert!(matches!(params.explain, Some(Err(_))), "{params:?}");
        assert_eq!((params.filter.as_str(), params.page, params.entered[0].as_str()), ("web", 2, "a..b"));
        assert_eq!(PageParams::parse("name=+&type=A").unwrap().explain, None, "no name");
        let origin = WireName::parse("cluster.local").ok();
        assert_eq!(RecordsParams::parse(""), Ok(RecordsParams { origin: None, output: Output::Zone }));
        let expected = RecordsParams { origin, output: Output::Json };
        assert_eq!(RecordsParams::parse("o=json&origin=Cluster.local"), Ok(expected));
        assert!(is_verbose("verbose") && is_verbose("x=1&verbose=true") && !is_verbose(""));
    }
}
