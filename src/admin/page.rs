//! The status page: state of the server, findings of the lint, an explanation of a name, and a list of Services.
//!
//! The page works without JavaScript; `page.js` polls `/api/v1/status`. maud escapes each text for HTML. A text from
//! outside (an object, a client) also passes [`text`], which makes it printable. The list of Services is paged.

use std::fmt::{Display, Write as _};
use std::fs::File;
use std::io::Read as _;
use std::time::{Duration, Instant, SystemTime};

use maud::{Escaper, Markup, PreEscaped, html};

use super::api::{rfc_3339, watch_name};
use super::health::{stale_text, watch_text};
use super::params::PageParams;
use super::shown::{AdminContext, AdminState, CertificateInUse, RATE_HISTORY_SECONDS, ServerInfo};
use crate::duration::age;
use crate::report::explain_report::{Candidate, ExplainReport, StepView};
use crate::report::finding_view::{Color, FindingView, for_shell};
use headless_dns_core::diagnose::{Checked, DiagnosticsView, Finding, Fix, Level};
use headless_dns_core::escape::{Printable, lines};
use headless_dns_core::name::WireName;
use headless_dns_core::object::{EndpointSlice, ObjectRef, Service, ServiceKind};
use headless_dns_core::rtype;
use headless_dns_core::status::{DataState, Status, WatchState};

/// Number of Services on a page.
const SERVICES_PER_PAGE: usize = 50;
/// Limit on the findings that are shown; the command `check` shows all.
const MAX_FINDINGS: usize = 25;
/// Remaining validity below which a certificate expires soon, as in `config/prometheus/alerts.yaml`.
const EXPIRY_WARNING: Duration = Duration::from_secs(7 * 86_400);
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page and its Content-Security-Policy, which allows the page's own script and no other.
pub(super) struct RenderedPage {
    pub(super) text: String,
    pub(super) policy: String,
}

/// Renders the page at `now`. Blocks while it reads the cluster.
pub(super) fn render(state: &AdminState, params: &PageParams, now: Instant) -> RenderedPage {
    let nonce = nonce();
    let text = html! {
        (PreEscaped("<!doctype html>\n"))
        html lang="en" {
            head {
                meta charset="utf-8";
                title { "headless-dns: " (state_word(&state.context.status).0) }
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="icon" href="data:,";
                style nonce=(nonce) { (PreEscaped(STYLE)) }
            }
            body {
                a class="skip" href="#explain" { "Skip to the explain box" }
                (body(state, params, now))
                script nonce=(nonce) { (PreEscaped(SCRIPT)) }
            }
        }
    };
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    );
    RenderedPage { text: text.into_string(), policy }
}

/// Returns 128 random bits as text, so that injected markup cannot name the nonce.
fn nonce() -> String {
    let mut octets = [0; 16];
    let read = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut octets));
    if read.is_err() {
        octets = fastrand::u128(..).to_be_bytes();
    }
    octets.iter().fold(String::new(), |text, octet| text + &format!("{octet:02x}"))
}

/// Returns a text from outside on one line, escaped for the content of an element or for an attribute.
fn text(text: impl Display) -> Markup {
    block(&Printable(text).to_string())
}

/// Returns an escaped text that keeps its line breaks.
fn block(text: &str) -> Markup {
    let mut escaped = String::new();
    // Writing to a String cannot fail.
    let _ = Escaper::new(&mut escaped).write_str(&lines(text));
    PreEscaped(escaped.replace('\'', "&#39;"))
}

/// Returns a link's target with these parameters.
fn target(path: &str, params: &[(&str, &str)], fragment: &str) -> String {
    let mut target = form_urlencoded::Serializer::for_suffix(format!("{path}?"), path.len() + 1);
    params.iter().for_each(|(name, value)| _ = target.append_pair(name, value));
    target.finish() + fragment
}

fn badge(class: &str, word: &str) -> Markup {
    html! { span class={ "pill " (class) } { (text(word)) } }
}

/// Returns the word and the CSS class for the state of the data.
fn state_word(status: &Status) -> (&'static str, &'static str) {
    match status.data_state() {
        _ if status.is_leaving() => ("leaving", "warning"),
        DataState::NotSynced | DataState::Restored | DataState::Partial => ("not ready", "warning"),
        DataState::Current => ("ready", "good"),
        DataState::Stale => ("stale", "warning"),
    }
}

fn body(state: &AdminState, params: &PageParams, now: Instant) -> Markup {
    let lint = state.check_findings();
    html! {
        (header(state, now))
        main {
            (notice(&state.context.status))
            (stat_cards(state))
            div.column {
                (explanation(state, params))
                (findings(&lint))
                (services(state, params, &lint))
            }
            div.column {
                (watches(state, now))
                (zones(&state.context))
                (encrypted(&state.context.info, SystemTime::now()))
            }
        }
        footer {
            a href="/api/v1/status" { "Status as JSON" }
            a href="/api/v1/records" { "Zone file" }
            a href="/metrics" { "Metrics" }
            a href="/readyz?verbose" { "Readiness" }
        }
    }
}

fn header(state: &AdminState, now: Instant) -> Markup {
    let (word, class) = state_word(&state.context.status);
    html! {
        header {
            h1 { "headless-dns" }
            p {
                (env!("CARGO_PKG_VERSION")) " · up "
                span id="uptime" { (age(now.saturating_duration_since(state.started_at).as_secs())) }
                " · " (text(&state.context.info.source))
            }
            span id="state" role="status" class={ "pill " (class) } { (word) }
        }
    }
}

/// Renders the warning about incomplete or stale data; hidden without one.
fn notice(status: &Status) -> Markup {
    let waiting = status.waiting_for().join("; ");
    let notice = match status.data_state() {
        _ if status.is_leaving() => "This server is shutting down. It still answers queries.".to_owned(),
        DataState::NotSynced if waiting.is_empty() => {
            "Not everything was read yet: no name is denied until then.".to_owned()
        }
        DataState::NotSynced => format!("Not everything was read yet. Waiting for: {waiting}."),
        DataState::Restored => {
            format!("Not everything was read yet: answers come from a snapshot. Waiting for: {waiting}.")
        }
        DataState::Partial => format!("Names that do not exist get SERVFAIL until all objects are read: {waiting}."),
        DataState::Stale => format!("Everything was read; {}.", stale_text(status)),
        DataState::Current => String::new(),
    };
    html! {
        section id="notice" class="notice warning" aria-label="Notice" hidden[notice.is_empty()] { p { (text(notice)) } }
        section id="lost" class="notice error" aria-live="assertive" hidden {
            p { "The server does not answer this page, which shows its last state." }
        }
    }
}

fn stat_cards(state: &AdminState) -> Markup {
    let zone = &state.context.zone;
    let (services, addresses) = zone.size();
    let rates = state.rates();
    let cards = [
        ("count-services", "Services", grouped(services as u64)),
        ("count-endpoints", "Endpoints", grouped(zone.endpoints() as u64)),
        ("count-addresses", "In reverse", grouped(addresses as u64)),
        ("serial", "Serial", zone.serial().to_string()),
    ];
    html! {
        section class="tiles" aria-label="Figures" {
            div.rate {
                dl {
                    dt { "Queries per second" }
                    dd id="rate" { (grouped(rates.last().copied().unwrap_or_default().round() as u64)) }
                }
                (sparkline(&rates))
            }
            @for (id, name, number) in cards {
                div { dl { dt { (name) } dd id=(id) { (number) } } }
            }
        }
    }
}

/// Renders the query rates of the last minute as a line. The script draws it in the same way.
fn sparkline(rates: &[f64]) -> Markup {
    let max = rates.iter().copied().fold(0.0, f64::max);
    let missing = RATE_HISTORY_SECONDS.saturating_sub(rates.len());
    let mut line = String::new();
    for (index, rate) in rates.iter().enumerate() {
        let (command, x, y) =
            (if index == 0 { 'M' } else { 'L' }, (index + missing) * 2, 30.0 - rate / max.max(1.0) * 28.0);
        let _ = write!(line, "{command}{x} {y:.1}");
    }
    let under = match rates {
        [] => String::new(),
        _ => format!("{line}L{} 32L{} 32Z", (RATE_HISTORY_SECONDS - 1) * 2, missing * 2),
    };
    let label = format!("Queries per second over the last minute, at most {}", grouped(max.round() as u64));
    html! {
        svg id="spark" viewBox="0 0 118 32" preserveAspectRatio="none" role="img" aria-label=(label) {
            path id="under" class="under" d=(under) {}
            path id="line" d=(line) {}
        }
    }
}

fn watches(state: &AdminState, now: Instant) -> Markup {
    let watches = state.context.status.watches();
    html! {
        section id="watches" {
            h2 { "Watches" }
            @for watch in &watches {
                @let class = match (&watch.state, watch.required) {
                    (WatchState::Current, _) => "good",
                    (WatchState::Waiting, _) | (_, false) => "warning",
                    _ => "error",
                };
                div.watch {
                    span { (watch.resource) } (badge(class, watch_name(watch))) p { (text(watch_text(watch, now))) }
                }
            }
            @if watches.is_empty() {
                p.muted { "None: the objects come from " (text(&state.context.info.source)) "." }
            }
        }
    }
}

fn zones(context: &AdminContext) -> Markup {
    let (zone, info) = (&context.zone, &context.info);
    let count = |number: usize, one: &str, many: &str| {
        format!("{} {}", grouped(number as u64), if number == 1 { one } else { many })
    };
    let services = count(zone.size().0, "Service", "Services");
    let forward = zone.settings().apexes.iter().map(|origin| (origin.clone(), services.clone()));
    let reverse = zone.reverse_zones();
    let reverse = reverse.apexes().iter().map(|origin| {
        let addresses = zone.addresses_of(origin).unwrap_or_default();
        (origin.clone(), count(addresses, "address", "addresses"))
    });
    let listen: Vec<String> = info.listen.load().plain.iter().map(ToString::to_string).collect();
    html! {
        section id="zones" {
            h2 { "Zones" }
            @for (origin, size) in forward.chain(reverse.take(SERVICES_PER_PAGE)) {
                div.watch {
                    span.mono {
                        a href=(target("/api/v1/records", &[("o", "table"), ("origin", &origin.to_string())], "")) {
                            (text(origin.without_final_dot()))
                        }
                    }
                    span.muted { (size) }
                }
            }
            div.watch {
                span.muted { "Listens on " (listen.join(", ")) ", UDP and TCP, " (info.workers) " workers" }
            }
        }
    }
}

/// Renders the encrypted listeners and their certificate; hidden without them.
fn encrypted(info: &ServerInfo, now: SystemTime) -> Markup {
    let (listen, certificate) = (info.listen.load(), info.certificate.load());
    let is_none = listen.encrypted.is_empty() && certificate.is_none();
    html! {
        section id="encrypted" hidden[is_none] {
            @if !is_none { h2 { "Encrypted" } }
            @for (transport, address) in &listen.encrypted {
                div.watch { span.mono { (address) } span.muted { (transport.label().to_uppercase()) } }
            }
            @if let Some(certificate) = certificate.as_deref() {
                @let (word, class, validity) = certificate_state(certificate, now);
                div.watch { span { "Certificate" } (badge(class, word)) p { (validity) } }
                @if let Some(refused) = &certificate.refused {
                    div.watch {
                        span { "Changed files" } (badge("error", "refused")) p { (text(refused)) }
                    }
                }
            }
        }
    }
}

fn findings(lint: &[Checked]) -> Markup {
    let count = |level| lint.iter().filter(|checked| checked.level == level).count();
    let mut first: Vec<&Checked> = lint.iter().filter(|checked| checked.level != Level::Note).collect();
    first.sort_by_key(|checked| checked.level);
    html! {
        section id="findings" {
            h2 { "Not answered as meant" }
            @for checked in first.iter().take(MAX_FINDINGS) { (checked_finding(checked)) }
            @if first.is_empty() {
                p.muted { "Nothing: every StatefulSet and Service answers as its objects say." }
            } @else if first.len() > MAX_FINDINGS {
                p.muted {
                    (count(Level::Error)) " errors and " (count(Level::Warning)) " warnings in all: "
                    code { "headless-dns check" } " shows them."
                }
            }
        }
    }
}

fn checked_finding(Checked { level, finding }: &Checked) -> Markup {
    let class = match level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Note => "",
    };
    let object = finding.about().into_iter().next().map(|about| format!("{} {}", about.kind, about.key));
    finding_article(&FindingView::from_finding(finding, (level.name(), Color::Plain)), class, object, false)
}

/// Renders one finding with its fix.
fn finding_article(said: &FindingView, class: &str, object: Option<String>, open: bool) -> Markup {
    html! {
        article {
            header {
                h3 { (text(object.unwrap_or_default())) }
                (badge(class, &said.weight.0))
                @if let Some(token) = &said.token { span.muted.mono { (text(token)) } }
            }
            p { (text(&said.text)) }
            @match &said.fix {
                None => {}
                Some(Fix::Advice(advice)) => { p { strong { "What helps:" } " " (text(advice)) } }
                Some(fix) => {
                    details open[open] {
                        summary { "What helps" }
                        pre tabindex="0" { (block(&for_shell(fix))) }
                    }
                }
            }
        }
    }
}

fn explanation(state: &AdminState, params: &PageParams) -> Markup {
    let refusal = |reason: &str| {
        html! {
            div class="result" role="alert" { (badge("warning", "not asked")) " " (text(reason)) }
        }
    };
    html! {
        section id="explain" {
            h2 { "Why does a name resolve, or not?" }
            (explain_form(state, params))
            @match &params.explain {
                None => {}
                Some(_) if !state.context.status.data_state().may_deny() => {
                    (refusal("not everything was read yet: ask again when the server is ready"))
                }
                Some(Err(reason)) => { (refusal(reason)) }
                Some(Ok(query)) => {
                    @match state.explain(query) {
                        Ok(explained) => { (explain_report(&explained)) }
                        Err(error) => { (refusal(&format!("{error:#}"))) }
                    }
                }
            }
        }
    }
}

fn explain_form(state: &AdminState, params: &PageParams) -> Markup {
    let [name, qtype, namespace] = &params.entered;
    let example = state.context.zone.example().without_final_dot();
    let types = [("", "usual"), ("A", "A"), ("AAAA", "AAAA"), ("SRV", "SRV"), ("PTR", "PTR"), ("TXT", "TXT")];
    html! {
        form method="get" action="/" {
            div.wide {
                label for="name" { "Name or address" }
                input id="name" name="name" required maxlength="300" autocomplete="off" spellcheck="false"
                    value=(text(name)) placeholder=(text(&example));
            }
            div.narrow {
                label for="type" { "Type" }
                select id="type" name="type" {
                    @for (value, label) in types {
                        option value=(value) selected[qtype.eq_ignore_ascii_case(value)] { (label) }
                    }
                }
            }
            div.narrow {
                label for="namespace" { "Asked from" }
                input id="namespace" name="namespace" maxlength="63" autocomplete="off" spellcheck="false"
                    value=(text(namespace)) placeholder=(text(&state.context.info.namespace));
            }
            button type="submit" { "Explain" }
        }
    }
}

fn explain_report(explained: &ExplainReport) -> Markup {
    /// Limit on the records that are state: a Service can have any number.
    const RECORDS: usize = 20;
    let Candidate { name, rcode, resolves } = &explained.candidates[explained.chosen];
    let (class, outcome) = if *resolves { ("good", "it resolves") } else { ("error", "it does not resolve") };
    let more = explained.answer.len().saturating_sub(RECORDS);
    html! {
        div class="result" id="result" {
            header {
                h3 { (text(name)) " " (text(rtype::name(explained.qtype))) }
                (badge(class, outcome))
                span.muted.mono { (text(rcode)) }
            }
            ol { @for step in &explained.steps { (explain_step(step)) } }
            @if !explained.answer.is_empty() {
                pre tabindex="0" {
                    @for (index, record) in explained.answer.iter().take(RECORDS).enumerate() {
                        @if index > 0 { "\n" }
                        (text(record))
                    }
                    @if more > 0 { "\n… and " (more) " more" }
                }
            }
            @for said in &explained.findings {
                @let class = if said.weight.0 == "cause" { "error" } else { "warning" };
                @let object = said.objects.first();
                (finding_article(said, class, object.map(|at| format!("{} {}/{}", at.kind, at.namespace, at.name)), true))
            }
            @for hint in &explained.hints { p.muted { (text(hint)) } }
        }
    }
}

fn explain_step(StepView { what, holds, text: result }: &StepView) -> Markup {
    html! {
        li {
            @match holds {
                Some(true) => { span class="yes" aria-label="yes" { "✓" } }
                Some(false) => { span class="no" aria-label="no" { "✗" } }
                None => { span aria-hidden="true" { "–" } }
            }
            span.muted { (text(what)) }
            span { (text(result)) }
        }
    }
}

fn services(state: &AdminState, params: &PageParams, lint: &[Checked]) -> Markup {
    let (rows, found) = state.context.diagnostics.with_view(|known| rows(known, params, lint));
    let apex = &state.context.zone.settings().apexes[0];
    html! {
        section id="services" {
            h2 { "Services" }
            form method="get" action="/" role="search" {
                div.wide {
                    label for="q" { "Namespace or name has" }
                    input id="q" name="q" type="search" maxlength="63" autocomplete="off" spellcheck="false"
                        value=(text(&params.filter));
                }
                button type="submit" { "Filter" }
            }
            @if rows.is_empty() {
                p.muted { "None here." }
            } @else {
                div.scroll {
                    table {
                        thead {
                            tr {
                                @for name in ["Namespace", "Service", "Kind"] { th scope="col" { (name) } }
                                th scope="col" class="number" { "Endpoints" }
                                th scope="col" { "State" }
                            }
                        }
                        tbody { @for row in &rows { (service_row(row, apex)) } }
                    }
                }
                (pages(params, found))
            }
        }
    }
}

fn service_row(row: &ServiceRow, apex: &WireName) -> Markup {
    let ObjectRef { namespace, name } = &row.key;
    html! {
        tr {
            td { (text(namespace)) }
            td {
                a href=(target("/", &[("name", &format!("{name}.{namespace}.svc.{apex}"))], "#explain")) { (text(name)) }
                @if let Some(finding) = &row.finding { p { (text(finding)) } }
            }
            td { (text(&row.kind)) }
            td.number {
                @match row.endpoints {
                    Some((answered, of)) => { (grouped(answered as u64)) " of " (grouped(of as u64)) }
                    None => { span.muted { "–" } }
                }
            }
            td { (badge(row.state.1, row.state.0)) }
        }
    }
}

fn pages(params: &PageParams, found: usize) -> Markup {
    let PageParams { page, filter, .. } = params;
    let first = (page - 1) * SERVICES_PER_PAGE + 1;
    let range = [first, (first + SERVICES_PER_PAGE - 1).min(found), found].map(|number| grouped(number as u64));
    html! {
        nav aria-label="Pages of Services" {
            span.muted { (range[0]) " to " (range[1]) " of " (range[2]) }
            span {
                @for (page, name) in [(page - 1, "Previous"), (page + 1, "Next")] {
                    @if page >= 1 && page <= found.div_ceil(SERVICES_PER_PAGE) {
                        " "
                        a href=(target("/", &[("q", filter), ("page", &page.to_string())], "#services")) { (name) }
                    }
                }
            }
        }
    }
}

/// Returns the word, the CSS class and the sentence for a certificate's validity at `now`.
fn certificate_state(certificate: &CertificateInUse, now: SystemTime) -> (&'static str, &'static str, String) {
    let Some((begins, ends)) = certificate.good else {
        return ("unknown", "warning", "Its validity cannot be parsed.".into());
    };
    let until = rfc_3339(ends);
    if let Ok(expired) = now.duration_since(ends) {
        return ("expired", "error", format!("{} ago, at {until}: clients refuse it.", age(expired.as_secs())));
    }
    if begins > now {
        return ("not good yet", "error", format!("Valid from {}: clients refuse it until then.", rfc_3339(begins)));
    }
    let left = ends.duration_since(now).unwrap_or_default();
    let text = format!("Expires in {}, at {until}.", age(left.as_secs()));
    if left < EXPIRY_WARNING { ("expires soon", "warning", text) } else { ("good", "good", text) }
}

/// Formats a number with thousands separators: 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A row of the list of Services.
struct ServiceRow {
    key: ObjectRef,
    kind: String,
    /// Number of endpoints in answers, and in all; `None` if answers hold no endpoints of the Service.
    endpoints: Option<(usize, usize)>,
    state: (&'static str, &'static str),
    /// Text of the worst finding.
    finding: Option<String>,
}

/// Returns the rows of the requested page, and the number of matching Services.
fn rows(known: &DiagnosticsView<'_>, params: &PageParams, lint: &[Checked]) -> (Vec<ServiceRow>, usize) {
    let wanted = |service: &&Service| {
        let ObjectRef { namespace, name } = &service.key;
        namespace.contains(&*params.filter) || name.contains(&*params.filter)
    };
    let mut keys: Vec<&ObjectRef> = known.cluster.services().filter(wanted).map(|service| &service.key).collect();
    keys.sort();
    let of_page = keys.iter().skip((params.page - 1).saturating_mul(SERVICES_PER_PAGE)).take(SERVICES_PER_PAGE);
    (of_page.filter_map(|key| row(known, key, lint)).collect(), keys.len())
}

fn row(known: &DiagnosticsView<'_>, key: &ObjectRef, lint: &[Checked]) -> Option<ServiceRow> {
    let view = known.cluster.service(key);
    let service = view.service?;
    let (kind, endpoints) = match &service.kind {
        ServiceKind::ExternalName(target) => (format!("alias of {target}"), None),
        ServiceKind::ClusterIp(_) => ("ClusterIP".to_owned(), None),
        ServiceKind::Headless => {
            let rows = view.slices().flat_map(EndpointSlice::endpoints);
            let counted = rows.fold((0, 0), |(answered, of), row| {
                (answered + usize::from(service.answers_with(row.conditions)), of + 1)
            });
            ("headless".to_owned(), Some(counted))
        }
    };
    let about =
        |finding: &Finding| finding.about().first().is_some_and(|about| about.kind == "Service" && about.key == *key);
    let worst =
        lint.iter().filter(|checked| checked.level != Level::Note && about(&checked.finding)).min_by_key(|c| c.level);
    let state = match (endpoints, worst.map(|checked| checked.level)) {
        (Some((0, 0)), _) => ("no endpoints", "warning"),
        (Some((0, _)), _) => ("none ready", "error"),
        (_, Some(Level::Error)) => ("broken", "error"),
        (Some((answered, of)), _) if answered < of => ("some ready", "warning"),
        (_, Some(Level::Warning)) => ("answers, in part", "warning"),
        _ => ("answers", "good"),
    };
    Some(ServiceRow {
        key: key.clone(),
        kind,
        endpoints,
        state,
        finding: worst.map(|checked| checked.finding.summary()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_texts_from_outside() {
        let evil = "<script>alert('1')</script> & \"x\"\n";
        let page = html! { a href=(target("/", &[("q", "\"><script>&")], "#a")) title=(text(evil)) { (text(evil)) } };
        let escaped = "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; &quot;x&quot;\\n";
        assert_eq!(
            page.into_string(),
            format!("<a href=\"/?q=%22%3E%3Cscript%3E%26#a\" title=\"{escaped}\">{escaped}</a>")
        );
    }

    #[test]
    fn loads_nothing_from_other_sites() {
        for part in [STYLE, SCRIPT] {
            for outside in ["http://", "https://", "//cdn", "@import", "src=", "url(", "</", " onclick"] {
                assert!(!part.contains(outside), "{outside}");
            }
        }
    }

    #[test]
    fn formats_numbers() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn describes_certificate_expiry() {
        let at = |days: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400);
        let certificate = CertificateInUse { good: Some((at(10), at(40))), refused: None };
        for (now, word, look, text) in [
            (9, "not good yet", "error", "Valid from 1970-01-11T00:00:00Z: clients refuse it until then."),
            (10, "good", "good", "Expires in 30d, at 1970-02-10T00:00:00Z."),
            (33, "good", "good", "Expires in 7d, at 1970-02-10T00:00:00Z."),
            (34, "expires soon", "warning", "Expires in 6d, at 1970-02-10T00:00:00Z."),
            (40, "expired", "error", "0s ago, at 1970-02-10T00:00:00Z: clients refuse it."),
            (43, "expired", "error", "3d ago, at 1970-02-10T00:00:00Z: clients refuse it."),
        ] {
            assert_eq!(certificate_state(&certificate, at(now)), (word, look, text.to_owned()), "{now}");
        }
        let unknown = CertificateInUse::default();
        assert_eq!(certificate_state(&unknown, at(0)).0, "unknown");
    }

    #[test]
    fn nonces_are_unique() {
        assert_ne!(nonce(), nonce());
        assert_eq!(nonce().len(), 32);
    }
}
