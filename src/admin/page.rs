//! The status page: state of the server, findings of the lint, an explanation of a name, and a list of Services.
//!
//! The page works without JavaScript. `page.html` has the style, and a script that polls `/api/v1/status`. Every text
//! passes [`Html::text`], which escapes it: names come from objects and from clients. The list of Services is paged.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::time::{Duration, Instant, SystemTime};

use super::api::{rfc_3339, watch_name};
use super::health::{stale_text, watch_text};
use super::params::PageParams;
use super::shown::{AdminContext, AdminState, CertificateInUse, RATE_HISTORY_SECONDS, ServerInfo};
use crate::duration::age;
use crate::report::explain_report::{Candidate, ExplainReport, StepView};
use crate::report::finding_view::{FindingView, for_shell};
use headless_dns_core::diagnose::{Checked, DiagnosticsView, Finding, Fix, Level};
use headless_dns_core::escape::{Printable, lines};
use headless_dns_core::name::WireName;
use headless_dns_core::object::{EndpointSlice, ObjectRef, Service, ServiceKind};
use headless_dns_core::rtype;
use headless_dns_core::status::{DataState, WatchState};

/// Number of Services on a page.
const SERVICES_PER_PAGE: usize = 50;
/// Limit on the findings that are shown; the command `check` shows all.
const MAX_FINDINGS: usize = 25;
/// Remaining validity below which a certificate expires soon, as in `config/prometheus/alerts.yaml`.
const EXPIRY_WARNING: Duration = Duration::from_secs(7 * 86_400);
const TEMPLATE: &str = include_str!("page.html");

/// The page and its Content-Security-Policy, which allows the page's own script and no other.
pub(super) struct RenderedPage {
    pub(super) text: String,
    pub(super) policy: String,
}

/// Renders the page at `now`. Blocks while it reads the cluster.
pub(super) fn render(shown: &AdminState, wish: &PageParams, now: Instant) -> RenderedPage {
    let nonce = nonce();
    let mut body = Html::default();
    body.page(shown, wish, now);
    let state = state_word(shown.context.status.data_state(), shown.context.status.is_leaving());
    let title = format!("headless-dns: {}", state.0);
    let fill = |part: &str| match part {
        "nonce" => nonce.clone(),
        "title" => title.clone(),
        _ => body.0.clone(),
    };
    let mut text = String::with_capacity(TEMPLATE.len() + body.0.len());
    let mut parts = TEMPLATE.split("{{");
    text.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let (name, rest) = part.split_once("}}").unwrap_or((part, ""));
        text.push_str(&fill(name));
        text.push_str(rest);
    }
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    );
    RenderedPage { text, policy }
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

/// Returns the word and the CSS class for the state of the data.
fn state_word(state: DataState, leaving: bool) -> (&'static str, &'static str) {
    match state {
        _ if leaving => ("leaving", "warning"),
        DataState::NotSynced | DataState::Restored | DataState::Partial => ("not ready", "warning"),
        DataState::Current => ("ready", "good"),
        DataState::Stale => ("stale", "warning"),
    }
}

/// An HTML text in progress.
#[derive(Default)]
struct Html(String);

impl Html {
    /// Appends markup.
    fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Appends a text on one line, escaped for the content of an element or of an attribute in quotes.
    #[allow(clippy::needless_pass_by_value, reason = "texts and numbers alike")]
    fn text(&mut self, text: impl ToString) -> &mut Self {
        self.block(&Printable(text.to_string()).to_string())
    }

    /// Appends an escaped text that keeps its line breaks.
    fn block(&mut self, text: &str) -> &mut Self {
        for letter in lines(text).chars() {
            match letter {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                _ => self.0.push(letter),
            }
        }
        self
    }

    /// Appends a percent-encoded value of a query string.
    fn parameter(&mut self, text: &str) -> &mut Self {
        for octet in text.bytes() {
            match octet {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => self.0.push(char::from(octet)),
                _ => _ = write!(self.0, "%{octet:02X}"),
            }
        }
        self
    }

    fn badge(&mut self, look: &'static str, text: impl ToString) -> &mut Self {
        self.raw("<span class=\"pill ").raw(look).raw("\">").text(text).raw("</span>")
    }

    fn page(&mut self, shown: &AdminState, wish: &PageParams, now: Instant) {
        let lint = shown.check_findings();
        self.header(shown, now);
        self.raw("<main>");
        self.notice(shown);
        self.stat_cards(shown);
        self.raw("<div class=\"column\">");
        self.explain(shown, wish);
        self.findings(&lint);
        self.services(shown, wish, &lint);
        self.raw("</div><div class=\"column\">");
        self.watches(shown, now);
        self.zones(&shown.context);
        self.encrypted(&shown.context.info, SystemTime::now());
        self.raw("</div></main><footer>");
        for (link, name) in [
            ("/api/v1/status", "Status as JSON"),
            ("/api/v1/records", "Zone file"),
            ("/metrics", "Metrics"),
            ("/readyz?verbose", "Readiness"),
        ] {
            self.raw("<a href=\"").raw(link).raw("\">").raw(name).raw("</a>");
        }
        self.raw("</footer>");
    }

    fn header(&mut self, shown: &AdminState, now: Instant) {
        let AdminContext { status, info: about, .. } = &shown.context;
        let (word, look) = state_word(status.data_state(), status.is_leaving());
        self.raw("<header><h1>headless-dns</h1><p>").text(env!("CARGO_PKG_VERSION"));
        self.raw(" · up <span id=\"uptime\">").text(age(now.saturating_duration_since(shown.started_at).as_secs()));
        self.raw("</span> · ").text(&about.source);
        self.raw("</p><span id=\"state\" role=\"status\" class=\"pill ").raw(look).raw("\">").raw(word);
        self.raw("</span></header>");
    }

    /// Appends the warning about incomplete or stale data; hidden without one.
    fn notice(&mut self, shown: &AdminState) {
        let status = &shown.context.status;
        let waiting = status.waiting_for();
        let text = match status.data_state() {
            _ if status.is_leaving() => "This server was told to end. It answers what it is still asked.".to_owned(),
            DataState::NotSynced if waiting.is_empty() => {
                "Not everything was read yet: no name is denied until then.".to_owned()
            }
            DataState::NotSynced => format!("Not everything was read yet. Waiting for: {}.", waiting.join("; ")),
            DataState::Restored => {
                format!("Not everything was read yet: answers are of a snapshot. Waiting for: {}.", waiting.join("; "))
            }
            DataState::Partial => {
                format!("Names that do not exist get SERVFAIL until all is read: {}.", waiting.join("; "))
            }
            DataState::Stale => format!("Everything was read; {}.", stale_text(status)),
            DataState::Current => String::new(),
        };
        self.raw("<section id=\"notice\" class=\"notice warning\" aria-label=\"Notice\"");
        self.raw(if text.is_empty() { " hidden>" } else { ">" }).raw("<p>").text(text).raw("</p></section>");
        self.raw("<section id=\"lost\" class=\"notice error\" aria-live=\"assertive\" hidden>");
        self.raw("<p>The server does not answer this page: what it shows is of before.</p></section>");
    }

    fn stat_cards(&mut self, shown: &AdminState) {
        let zone = &shown.context.zone;
        let (services, addresses) = zone.size();
        let rates = shown.rates();
        self.raw("<section class=\"tiles\" aria-label=\"Figures\"><div class=\"rate\"><dl><dt>Queries per second</dt><dd id=\"rate\">");
        self.text(grouped(rates.last().copied().unwrap_or_default().round() as u64)).raw("</dd></dl>");
        self.sparkline(&rates);
        self.raw("</div>");
        for (id, what, number) in [
            ("count-services", "Services", grouped(services as u64)),
            ("count-endpoints", "Endpoints", grouped(zone.endpoints() as u64)),
            ("count-addresses", "In reverse", grouped(addresses as u64)),
            ("serial", "Serial", zone.serial().to_string()),
        ] {
            self.raw("<div><dl><dt>").raw(what).raw("</dt><dd id=\"").raw(id).raw("\">").text(number);
            self.raw("</dd></dl></div>");
        }
        self.raw("</section>");
    }

    /// Appends the query rates of the last minute as a line. The script draws it in the same way.
    fn sparkline(&mut self, rates: &[f64]) {
        let most = rates.iter().copied().fold(1.0, f64::max);
        let missing = RATE_HISTORY_SECONDS.saturating_sub(rates.len());
        let point = |(index, rate): (usize, &f64)| ((index + missing) * 2, 30.0 - rate / most * 28.0);
        let mut line = String::new();
        for (x, y) in rates.iter().enumerate().map(point) {
            let _ = write!(line, "{}{x} {y:.1}", if line.is_empty() { 'M' } else { 'L' });
        }
        let under = match rates.len() {
            0 => String::new(),
            _ => format!("{line}L{} 32L{} 32Z", (RATE_HISTORY_SECONDS - 1) * 2, missing * 2),
        };
        let highest = grouped(rates.iter().copied().fold(0.0, f64::max).round() as u64);
        self.raw("<svg id=\"spark\" viewBox=\"0 0 118 32\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"");
        self.text(format!("Queries per second over the last minute, at most {highest}"));
        self.raw("\"><path id=\"under\" class=\"under\" d=\"").text(under);
        self.raw("\"/><path id=\"line\" d=\"").text(line).raw("\"/></svg>");
    }

    fn watches(&mut self, shown: &AdminState, now: Instant) {
        self.raw("<section id=\"watches\"><h2>Watches</h2>");
        let watches = shown.context.status.watches();
        for watch in &watches {
            let look = match (&watch.state, watch.required) {
                (WatchState::Current, _) => "good",
                (WatchState::Waiting, _) | (_, false) => "warning",
                _ => "error",
            };
            self.raw("<div class=\"watch\"><span>").text(watch.resource).raw("</span>").badge(look, watch_name(watch));
            self.raw("<p>").text(watch_text(watch, now)).raw("</p></div>");
        }
        if watches.is_empty() {
            self.raw("<p class=\"muted\">None: the objects are of ").text(&shown.context.info.source).raw(".</p>");
        }
        self.raw("</section>");
    }

    fn zones(&mut self, view: &AdminContext) {
        let (zone, about) = (&view.zone, &view.info);
        self.raw("<section id=\"zones\"><h2>Zones</h2>");
        let counted = |number: usize, one: &str, many: &str| {
            format!("{} {}", grouped(number as u64), if number == 1 { one } else { many })
        };
        let services = counted(zone.size().0, "Service", "Services");
        let forward = zone.settings().apexes.iter().map(|origin| (origin.clone(), services.clone()));
        let reverse = zone.reverse_zones();
        let reverse = reverse.apexes().iter().map(|origin| {
            let addresses = zone.addresses_of(origin).unwrap_or_default();
            (origin.clone(), counted(addresses, "address", "addresses"))
        });
        for (origin, size) in forward.chain(reverse.take(SERVICES_PER_PAGE)) {
            let origin = origin.to_string();
            self.raw("<div class=\"watch\"><span class=\"mono\"><a href=\"/api/v1/records?o=table&amp;origin=");
            self.parameter(&origin)
                .raw("\">")
                .text(origin.trim_end_matches('.'))
                .raw("</a></span><span class=\"muted\">");
            self.text(size).raw("</span></div>");
        }
        let listen: Vec<String> = about.listen.load().plain.iter().map(ToString::to_string).collect();
        self.raw("<div class=\"watch\"><span class=\"muted\">Listens on ").text(listen.join(", "));
        self.raw(", UDP and TCP, ").text(about.workers).raw(" workers</span></div></section>");
    }

    /// Appends the encrypted listeners and their certificate; hidden without them.
    fn encrypted(&mut self, about: &ServerInfo, now: SystemTime) {
        let (listen, certificate) = (about.listen.load(), about.certificate.load());
        let is_none = listen.encrypted.is_empty() && certificate.is_none();
        self.raw("<section id=\"encrypted\"").raw(if is_none { " hidden>" } else { "><h2>Encrypted</h2>" });
        for (transport, address) in &listen.encrypted {
            self.raw("<div class=\"watch\"><span class=\"mono\">").text(address);
            self.raw("</span><span class=\"muted\">").text(transport.label().to_uppercase()).raw("</span></div>");
        }
        if let Some(certificate) = certificate.as_deref() {
            let (word, look, text) = certificate_state(certificate, now);
            self.raw("<div class=\"watch\"><span>Certificate</span>").badge(look, word);
            self.raw("<p>").text(text).raw("</p></div>");
            if let Some(refused) = &certificate.refused {
                self.raw("<div class=\"watch\"><span>Its files, as they are now</span>").badge("error", "refused");
                self.raw("<p>").text(refused).raw("</p></div>");
            }
        }
        self.raw("</section>");
    }

    // Findings.

    fn findings(&mut self, lint: &[Checked]) {
        let broken = lint.iter().filter(|checked| checked.level != Level::Note);
        let of = |level| lint.iter().filter(|checked| checked.level == level).count();
        self.raw("<section id=\"findings\"><h2>Not answered as meant</h2>");
        let mut first: Vec<&Checked> = broken.collect();
        first.sort_by_key(|checked| checked.level);
        for checked in first.iter().take(MAX_FINDINGS) {
            self.finding(checked);
        }
        if first.is_empty() {
            self.raw("<p class=\"muted\">Nothing: every StatefulSet and Service answers as its objects say.</p>");
        } else if first.len() > MAX_FINDINGS {
            let rest = format!("{} errors and {} warnings in all", of(Level::Error), of(Level::Warning));
            self.raw("<p class=\"muted\">").text(rest).raw(": <code>headless-dns check</code> shows them.</p>");
        }
        self.raw("</section>");
    }

    fn finding(&mut self, Checked { level, finding }: &Checked) {
        let look = match level {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Note => "",
        };
        let object = finding.about().into_iter().next().map(|about| format!("{} {}", about.kind, about.key));
        self.said(
            &FindingView::from_finding(finding, (level.name(), crate::report::finding_view::Color::Plain)),
            look,
            object,
            false,
        );
    }

    /// Appends one finding with its fix.
    fn said(&mut self, said: &FindingView, look: &'static str, object: Option<String>, open: bool) {
        self.raw("<article><header><h3>").text(object.unwrap_or_default()).raw("</h3>").badge(look, &said.weight.0);
        if let Some(token) = &said.token {
            self.raw("<span class=\"muted mono\">").text(token).raw("</span>");
        }
        self.raw("</header><p>").text(&said.text).raw("</p>");
        match &said.fix {
            None => {}
            Some(Fix::Advice(advice)) => _ = self.raw("<p><strong>What helps:</strong> ").text(advice).raw("</p>"),
            Some(fix) => {
                self.raw("<details").raw(if open { " open" } else { "" }).raw("><summary>What helps</summary>");
                self.raw("<pre tabindex=\"0\">").block(&for_shell(fix)).raw("</pre></details>");
            }
        }
        self.raw("</article>");
    }

    // Explanation.

    fn explain(&mut self, shown: &AdminState, wish: &PageParams) {
        let [name, qtype, namespace] = &wish.entered;
        self.raw("<section id=\"explain\"><h2>Why does a name resolve, or not?</h2><form method=\"get\" action=\"/\">");
        self.raw("<div class=\"wide\"><label for=\"name\">Name or address</label><input id=\"name\" name=\"name\" required maxlength=\"300\" autocomplete=\"off\" spellcheck=\"false\" value=\"");
        self.text(name).raw("\" placeholder=\"").text(example(shown)).raw("\"></div>");
        self.raw("<div class=\"narrow\"><label for=\"type\">Type</label><select id=\"type\" name=\"type\">");
        for (value, label) in
            [("", "usual"), ("A", "A"), ("AAAA", "AAAA"), ("SRV", "SRV"), ("PTR", "PTR"), ("TXT", "TXT")]
        {
            let chosen = qtype.eq_ignore_ascii_case(value);
            self.raw("<option value=\"").raw(value).raw(if chosen { "\" selected>" } else { "\">" }).raw(label);
            self.raw("</option>");
        }
        self.raw("</select></div><div class=\"narrow\"><label for=\"namespace\">Asked from</label><input id=\"namespace\" name=\"namespace\" maxlength=\"63\" autocomplete=\"off\" spellcheck=\"false\" value=\"");
        self.text(namespace).raw("\" placeholder=\"").text(&shown.context.info.namespace).raw("\"></div>");
        self.raw("<button type=\"submit\">Explain</button></form>");
        match &wish.explain {
            None => {}
            Some(_) if !shown.context.status.data_state().may_deny() => {
                self.refusal("not everything was read yet: ask again when the server is ready");
            }
            Some(Err(sentence)) => self.refusal(sentence),
            Some(Ok(question)) => match shown.explain(question) {
                Ok(explained) => self.explained(&explained),
                Err(error) => self.refusal(&format!("{error:#}")),
            },
        }
        self.raw("</section>");
    }

    fn refusal(&mut self, sentence: &str) {
        self.raw("<div class=\"result\" role=\"alert\">")
            .badge("warning", "not asked")
            .raw(" ")
            .text(sentence)
            .raw("</div>");
    }

    fn explained(&mut self, explained: &ExplainReport) {
        let Candidate { name, rcode, resolves } = &explained.candidates[explained.chosen];
        self.raw("<div class=\"result\" id=\"result\"><header><h3>").text(name).raw(" ");
        self.text(rtype::name(explained.qtype)).raw("</h3>");
        self.badge(
            if *resolves { "good" } else { "error" },
            if *resolves { "it resolves" } else { "it does not resolve" },
        );
        self.raw("<span class=\"muted mono\">").text(rcode).raw("</span></header><ol>");
        for StepView { what, holds, text } in &explained.steps {
            self.raw(match holds {
                Some(true) => "<li><span class=\"yes\" aria-label=\"yes\">✓</span>",
                Some(false) => "<li><span class=\"no\" aria-label=\"no\">✗</span>",
                None => "<li><span aria-hidden=\"true\">–</span>",
            });
            self.raw("<span class=\"muted\">").text(what).raw("</span><span>").text(text).raw("</span></li>");
        }
        self.raw("</ol>");
        if !explained.answer.is_empty() {
            /// Limit on the records that are shown: a Service can have any number.
            const RECORDS: usize = 20;
            let records: Vec<String> = explained.answer.iter().take(RECORDS).map(ToString::to_string).collect();
            let more = explained.answer.len().saturating_sub(RECORDS);
            let more = if more > 0 { format!("\n… and {more} more") } else { String::new() };
            self.raw("<pre tabindex=\"0\">").text(records.join("\n")).text(more).raw("</pre>");
        }
        for said in &explained.findings {
            let look = if said.weight.0 == "cause" { "error" } else { "warning" };
            let object =
                said.objects.first().map(|object| format!("{} {}/{}", object.kind, object.namespace, object.name));
            self.said(said, look, object, true);
        }
        for hint in &explained.hints {
            self.raw("<p class=\"muted\">").text(hint).raw("</p>");
        }
        self.raw("</div>");
    }

    // Services.

    fn services(&mut self, shown: &AdminState, wish: &PageParams, lint: &[Checked]) {
        let (rows, found) = shown.context.diagnostics.with_view(|known| rows(known, wish, lint));
        self.raw("<section id=\"services\"><h2>Services</h2><form method=\"get\" action=\"/\" role=\"search\">");
        self.raw("<div class=\"wide\"><label for=\"q\">Namespace or name has</label><input id=\"q\" name=\"q\" type=\"search\" maxlength=\"63\" autocomplete=\"off\" spellcheck=\"false\" value=\"");
        self.text(&wish.filter).raw("\"></div><button type=\"submit\">Filter</button></form>");
        if rows.is_empty() {
            self.raw("<p class=\"muted\">None here.</p></section>");
            return;
        }
        self.raw(
            "<div class=\"scroll\"><table><thead><tr><th scope=\"col\">Namespace</th><th scope=\"col\">Service</th>",
        );
        self.raw("<th scope=\"col\">Kind</th><th scope=\"col\" class=\"number\">Endpoints</th><th scope=\"col\">State</th></tr></thead><tbody>");
        let apex = &shown.context.zone.settings().apexes[0];
        rows.iter().for_each(|row| self.row(row, apex));
        self.raw("</tbody></table></div>");
        self.pages(wish, found);
        self.raw("</section>");
    }

    fn row(&mut self, row: &ServiceRow, apex: &WireName) {
        let ObjectRef { namespace, name } = &row.key;
        self.raw("<tr><td>").text(namespace).raw("</td><td><a href=\"/?name=");
        self.parameter(&format!("{name}.{namespace}.svc.{apex}")).raw("#explain\">").text(name).raw("</a>");
        if let Some(why) = &row.why {
            self.raw("<p>").text(why).raw("</p>");
        }
        self.raw("</td><td>").text(&row.kind).raw("</td><td class=\"number\">");
        if let Some((answered, of)) = row.endpoints {
            self.text(grouped(answered as u64)).raw(" of ").text(grouped(of as u64));
        } else {
            self.raw("<span class=\"muted\">–</span>");
        }
        self.raw("</td><td>").badge(row.state.1, row.state.0).raw("</td></tr>");
    }

    fn pages(&mut self, wish: &PageParams, found: usize) {
        let pages = found.div_ceil(SERVICES_PER_PAGE).max(1);
        self.raw("<nav aria-label=\"Pages of Services\"><span class=\"muted\">");
        let first = (wish.page - 1) * SERVICES_PER_PAGE + 1;
        self.text(format!(
            "{} to {} of {}",
            grouped(first as u64),
            grouped((first + SERVICES_PER_PAGE - 1).min(found) as u64),
            grouped(found as u64)
        ));
        self.raw("</span><span>");
        for (page, name) in [(wish.page - 1, "Previous"), (wish.page + 1, "Next")] {
            if page >= 1 && page <= pages {
                self.raw(" <a href=\"/?q=").parameter(&wish.filter).raw("&amp;page=").text(page).raw("#services\">");
                self.raw(name).raw("</a>");
            }
        }
        self.raw("</span></nav>");
    }
}

/// Returns the word, the CSS class and the sentence for a certificate's validity at `now`.
fn certificate_state(certificate: &CertificateInUse, now: SystemTime) -> (&'static str, &'static str, String) {
    let Some((begins, ends)) = certificate.good else {
        return ("unknown", "warning", "It does not say in a known form until when it is good.".into());
    };
    let until = rfc_3339(ends);
    if let Ok(late) = now.duration_since(ends) {
        return ("expired", "error", format!("{} ago, at {until}: clients refuse it.", age(late.as_secs())));
    }
    if begins > now {
        return (
            "not good yet",
            "error",
            format!("Good from {} only: clients refuse it until then.", rfc_3339(begins)),
        );
    }
    let left = ends.duration_since(now).unwrap_or_default();
    let text = format!("Expires in {}, at {until}.", age(left.as_secs()));
    if left < EXPIRY_WARNING { ("expires soon", "warning", text) } else { ("good", "good", text) }
}

/// Returns the name in the form's placeholder.
fn example(shown: &AdminState) -> String {
    shown.context.zone.example().to_string().trim_end_matches('.').to_owned()
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
    why: Option<String>,
}

/// Returns the rows of the requested page, and the number of matching Services.
fn rows(known: &DiagnosticsView<'_>, wish: &PageParams, lint: &[Checked]) -> (Vec<ServiceRow>, usize) {
    let wanted = |service: &&Service| {
        let ObjectRef { namespace, name } = &service.key;
        namespace.contains(&*wish.filter) || name.contains(&*wish.filter)
    };
    let mut keys: Vec<&ObjectRef> = known.cluster.services().filter(wanted).map(|service| &service.key).collect();
    keys.sort();
    let of_page = keys.iter().skip((wish.page - 1).saturating_mul(SERVICES_PER_PAGE)).take(SERVICES_PER_PAGE);
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
    Some(ServiceRow { key: key.clone(), kind, endpoints, state, why: worst.map(|checked| checked.finding.summary()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_is_markup() {
        let mut html = Html::default();
        html.raw("<a href=\"/?q=").parameter("\"><script>&").raw("\">").text("<script>alert('1')</script> & \"x\"");
        let expected = "<a href=\"/?q=%22%3E%3Cscript%3E%26\">\
                        &lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; &quot;x&quot;";
        assert_eq!(html.0, expected);
    }

    #[test]
    fn the_template_asks_nobody_else() {
        for outside in ["http://", "https://", "//cdn", "@import", "src=", "url("] {
            assert!(!TEMPLATE.contains(outside), "{outside}");
        }
        let placeholders: Vec<&str> =
            TEMPLATE.split("{{").skip(1).filter_map(|part| Some(part.split_once("}}")?.0)).collect();
        assert_eq!(placeholders, ["title", "nonce", "body", "nonce"]);
        assert!(!TEMPLATE.contains(" style=") && !TEMPLATE.contains(" onclick"), "the policy would forbid it");
    }

    #[test]
    fn numbers_for_people() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn what_a_certificate_is_worth() {
        let at = |days: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400);
        let certificate = CertificateInUse { good: Some((at(10), at(40))), refused: None };
        for (now, word, look, text) in [
            (9, "not good yet", "error", "Good from 1970-01-11T00:00:00Z only: clients refuse it until then."),
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
    fn no_nonce_comes_twice() {
        assert_ne!(nonce(), nonce());
        assert_eq!(nonce().len(), 32);
    }
}
