//! The results page: tables, plots and the goals, all from the sheet.
//!
//! Nothing here measures, and no verdict is written by hand: `--from` makes the same page again. Read next: `sheet.rs`
//! for what is in it, `plot.rs`.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::plot::{self, thousands};
use super::sheet::Sheet;

const ECHO: &str = "echo";
const OURS: &str = "headless-dns";
/// What stands where nothing was measured.
const NOTHING: &str = "-";

/// Writes `speed.md`, and beside it `speed/` with the plots and the figures.
///
/// # Errors
///
/// A file that cannot be written, by name.
pub fn write(sheet: &Sheet, folder: &Path) -> Result<()> {
    let beside = folder.join("speed");
    std::fs::create_dir_all(&beside).with_context(|| beside.display().to_string())?;
    let file = |path: &Path, text: &str| std::fs::write(path, text).with_context(|| path.display().to_string());
    file(&beside.join("figures.tsv"), &sheet.write())?;
    let plots = plots(sheet);
    for (name, _, svg) in &plots {
        file(&beside.join(format!("{name}.svg")), svg)?;
    }
    let shown: Vec<(&str, &str)> = plots.iter().map(|(name, what, _)| (*name, *what)).collect();
    file(&folder.join("speed.md"), &page(sheet, &shown))
}

const HEAD: &str = "\
# Speed

What an answer costs, beside other servers with the same zone and beside a bare UDP echo, which is the limit for any
server on plain sockets. This page is written by the benchmark; nothing in it is typed by hand. Why goals are missed is
the subject of [performance.md](performance.md).

## How to run it

```sh
cargo bench --bench compare
```

One command for Linux with two CPUs. It builds the release binary; fetches NSD, Knot and BIND, the newest that Debian
has, into a folder below `~/.cache/headless-dns` (on a Debian, without root and without installing anything); builds
CoreDNS with Go 1.26; and brings its own echo and the obvious combination, hickory-server with a `RequestHandler` over
a dashmap of prepared records. A server that cannot be had is named below with the reason, and the rest runs. The first
run builds for a quarter of an hour; the measurement itself takes less than 25 minutes.

| option | what it does |
|---|---|
| `--rounds N` | how often each workload is measured of each server (9) |
| `--seconds S` | how long a turn is (0.5) |
| `--only W1,W8` | only these parts: `W1` to `W10`, `latency`, `workers`, `sizes`, `publish` |
| `--servers echo,headless-dns` | only these: `echo`, `headless-dns`, `nsd`, `knot`, `bind`, `coredns`, `coredns-cache`, `hickory` |
| `--sizes 10000,100000` | endpoints of the large clusters (10000,100000,1000000) |
| `--server PATH` | a binary of headless-dns that is built already |
| `--page FOLDER` | where this page goes (docs) |
| `--print` | write no page, and print the tables |
| `--from FILE` | measure nothing: make the page again from `docs/speed/figures.tsv` |

For instance, CPU per query on the mix beside the limit, in a minute:
`cargo bench --bench compare -- --only W8 --servers echo,headless-dns --print`.

## How it is measured

The cluster has 1,000 headless Services with 3 Pods each, one with 100, and a StatefulSet with 5,000. headless-dns and
CoreDNS watch it at an API server (the fake one of the tests, over HTTP); the others load the zone files that
`headless-dns records` writes of it. Each has one worker on CPU 0, no log and no rate limit; NSD, Knot and BIND also
minimal responses. Knot and ours receive in batches. All queries have EDNS and offer 1232 octets.
Where the answers differ in what they need not have in common, the octets of a response say so: NSD leaves out the
addresses of SRV targets (W3), and NSD and Knot leave a truncated answer empty (W2). BIND loads no RRset of more than
64 kB, so its zone lacks those of the Service with 5,000 Pods, for which nobody asks it; the Pods' names are there.

* **CPU-us per query** is the CPU time of all threads of the server (`/proc/PID/task/*/schedstat`) for each answer, in a
  closed loop with 256 queries in flight, with the generator on the same CPU: so each runs until it has nothing left to
  do, and batches are as full as the window lets them be, for every server alike. (From another CPU a slow server gets
  fuller batches than a fast one, and looks better than it is.)
* **Ratio** is the echo's CPU time over the server's: 1.00 is the limit. The echo's replies are as long as ours are on
  average.
* In each round a server and the echo take turns, ours in ten short ones, and the ratio is of these: a machine that is
  shared has fast seconds and slow ones. All figures are medians over the rounds.
* **Latency** is measured in an open loop, with the generator on CPU 1: from the time at which a query was due, at
  50,000 per second.
* A sample of the answers is compared with our zone's records: in each turn the first 100 and each 64th. A wrong one of
  ours ends the run, and one of another server is a note below.

";

/// The whole page; `plots` are names and titles.
pub fn page(sheet: &Sheet, plots: &[(&str, &str)]) -> String {
    let mut text = HEAD.to_owned() + &about(sheet) + "\n";
    for (name, what) in plots {
        let _ = writeln!(text, "![{what}](speed/{name}.svg)\n");
    }
    text + &tables(sheet)
}

/// The machine, the command and the versions.
fn about(sheet: &Sheet) -> String {
    let is = |item: &str| sheet.text("about", item, "", "is").unwrap_or(NOTHING);
    if sheet.text("about", "cpu", "", "is").is_none() {
        return "## This run\n\nNothing was measured yet: the command above writes the figures here.\n".to_owned();
    }
    let mut text = String::from("## This run\n\n| | |\n|---|---|\n");
    let _ = writeln!(text, "| command | `{}` |", is("command"));
    let _ = writeln!(text, "| rounds | {} of {} s |", is("rounds"), is("seconds"));
    let _ = writeln!(text, "| CPU | {} of {} |", is("cpus"), is("cpu"));
    let _ = writeln!(text, "| kernel | {} |", is("kernel"));
    let _ = writeln!(text, "| load of the machine at the start | {} |", is("load"));
    for server in sheet.servers("about", Some("version")) {
        let _ = writeln!(text, "| {server} | {} |", sheet.text("about", "version", server, "is").unwrap_or(NOTHING));
    }
    text
}

/// All tables, without the plots.
pub fn tables(sheet: &Sheet) -> String {
    let mut text = goals_table(sheet);
    text += &workloads(sheet);
    text += &latency(sheet);
    text += &sizes(sheet);
    text += &publications(sheet);
    text += &notes(sheet);
    text
}

/// Servers in columns, items in rows; nothing where nothing was measured.
fn table(
    sheet: &Sheet,
    title: &str,
    group: &str,
    items: &[&str],
    named: impl Fn(&str) -> String,
    cell: impl Fn(&str, &str) -> Option<String>,
) -> String {
    let servers: Vec<&str> = sheet
        .servers(group, None)
        .into_iter()
        .filter(|server| items.iter().any(|item| cell(item, server).is_some()))
        .collect();
    if servers.is_empty() {
        return String::new();
    }
    let mut text = format!("{title}\n\n| | {} |\n|---|{}\n", servers.join(" | "), "---:|".repeat(servers.len()));
    for item in items {
        let cells: Vec<String> =
            servers.iter().map(|server| cell(item, server).unwrap_or_else(|| NOTHING.to_owned())).collect();
        if cells.iter().any(|cell| cell != NOTHING) {
            let _ = writeln!(text, "| {} | {} |", named(item), cells.join(" | "));
        }
    }
    text + "\n"
}

/// The echo's CPU time over the server's: the median over the rounds of both in one.
fn ratio(sheet: &Sheet, group: &str, item: &str, server: &str) -> Option<f64> {
    if let Some(ratio) = sheet.median(group, item, server, "ratio") {
        return Some(ratio);
    }
    let cpu = |server| sheet.median(group, item, server, "cpu_us");
    Some(cpu(ECHO)? / cpu(server)?)
}

fn cpu_cell(sheet: &Sheet, group: &str, item: &str, server: &str) -> Option<String> {
    let cpu = sheet.median(group, item, server, "cpu_us")?;
    Some(match ratio(sheet, group, item, server) {
        Some(ratio) if server != ECHO => format!("{cpu:.2} ({ratio:.2})"),
        _ => format!("{cpu:.2}"),
    })
}

fn workloads(sheet: &Sheet) -> String {
    let items = sheet.items("workload");
    let what = |item: &str| format!("{item} {}", sheet.text("about", "workload", item, "is").unwrap_or_default());
    let short = |item: &str| item.to_owned();
    let median = |item: &str, server: &str, measure: &str| sheet.median("workload", item, server, measure);
    let mut text = String::new();
    if !items.is_empty() {
        text += "## Workloads\n\n";
    }
    text += &table(sheet, "CPU-us per query, and the ratio to the echo:", "workload", &items, what, |item, server| {
        cpu_cell(sheet, "workload", item, server)
    });
    text += &table(
        sheet,
        "Queries per second in the closed loop, generator and one worker on one CPU:",
        "workload",
        &items,
        short,
        |item, server| median(item, server, "per_second").map(thousands),
    );
    text += &table(sheet, "Octets of a response, on average:", "workload", &items, short, |item, server| {
        median(item, server, "octets").map(|octets| format!("{octets:.0}"))
    });
    if let (Some(one), Some(two)) =
        (sheet.median("workers", "1", OURS, "cpu_us"), sheet.median("workers", "2", OURS, "cpu_us"))
    {
        let _ = writeln!(
            text,
            "With two workers a query of W8 costs {two:.2} CPU-us, with one {one:.2}. The generator has one of the two CPUs, so \
             how many queries per second two workers answer cannot be shown here; by CPU time alone it would be {:.2} times \
             as many.\n",
            2.0 * one / two
        );
    }
    text
}

fn latency(sheet: &Sheet) -> String {
    let items = sheet.items("latency");
    let median = |item: &str, server: &str, measure: &str| sheet.median("latency", item, server, measure);
    let title =
        "## Latency\n\nMicroseconds to the answer at 50,000 queries per second, p50 / p99 / p99.9, and what was lost:";
    let mut text = table(sheet, title, "latency", &items, ToOwned::to_owned, |item, server| {
        let us = |measure| median(item, server, measure);
        let lost = us("lost").filter(|lost| *lost > 0.0).map(|lost| format!(", {} lost", thousands(lost)));
        Some(format!("{:.0} / {:.0} / {:.0}{}", us("p50_us")?, us("p99_us")?, us("p999_us")?, lost.unwrap_or_default()))
    });
    for item in items {
        if let Some(behind) = median(item, OURS, "behind_p999_us") {
            let _ = writeln!(
                text,
                "In {item} the generator itself was at most {behind:.0} us late for 99.9 % of the queries.\n"
            );
        }
    }
    text
}

fn sizes(sheet: &Sheet) -> String {
    let endpoints = |item: &str| item.parse().map_or_else(|_| item.to_owned(), thousands);
    let mut text = String::new();
    let items = sheet.items("size");
    if !items.is_empty() {
        text += "## Large clusters\n\n100 endpoints in each Service; names at random.\n\n";
    }
    for (group, what) in [("size-W8", "the mix"), ("size-W4", "ordinals")] {
        let title = format!("CPU-us per query ({what}), by endpoints:");
        let items = sheet.items(group);
        text += &table(sheet, &title, group, &items, endpoints, |item, server| cpu_cell(sheet, group, item, server));
    }
    let title =
        "Memory in MB of 10^6 octets, by endpoints (resident; of several processes the sum of the proportional sizes):";
    let value = |item: &str, server: &str, measure: &str| sheet.median("size", item, server, measure);
    text += &table(sheet, title, "size", &items, endpoints, |item, server| {
        value(item, server, "memory_mb").map(|memory| format!("{memory:.1}"))
    });
    let title = "Milliseconds from the start to the first right answer, with the whole cluster read:";
    text +=
        &table(sheet, title, "size", &items, endpoints, |item, server| value(item, server, "ready_ms").map(thousands));
    text
}

fn publications(sheet: &Sheet) -> String {
    let items = sheet.items("publish");
    let title =
        "## Publication\n\nMicroseconds to publish a Service of which one endpoint has changed, by its endpoints:";
    let named = |item: &str| item.parse().map_or_else(|_| item.to_owned(), thousands);
    table(sheet, title, "publish", &items, named, |item, server| {
        sheet.median("publish", item, server, "us").map(|us| format!("{us:.1}"))
    })
}

fn notes(sheet: &Sheet) -> String {
    let mut text = String::new();
    for server in sheet.servers("about", Some("note")) {
        for note in sheet.values("about", "note", server, "is") {
            let _ = writeln!(text, "* {server}: {note}");
        }
    }
    if text.is_empty() { text } else { format!("## Notes\n\n{text}\n") }
}

/// A goal, its figure, what was measured, and whether it is met; `None` where this run cannot say.
#[derive(Debug, PartialEq)]
pub struct Goal {
    pub what: String,
    pub figure: String,
    pub measured: String,
    pub met: Option<bool>,
}

fn goals_table(sheet: &Sheet) -> String {
    let mut text = String::from("## Goals\n\n| goal | figure | measured | |\n|---|---|---|---|\n");
    let goals = goals(sheet);
    for Goal { what, figure, measured, met } in &goals {
        let met = match met {
            Some(true) => "met",
            Some(false) => "**not met**",
            None => NOTHING,
        };
        let _ = writeln!(text, "| {what} | {figure} | {measured} | {met} |");
    }
    if goals.is_empty() { String::new() } else { text + "\n" }
}

/// Those of the design, in its order, as far as something of them was measured.
pub fn goals(sheet: &Sheet) -> Vec<Goal> {
    let mut goals = Goals { sheet, all: Vec::new() };
    goals.against_echo();
    goals.against_nsd_and_knot();
    goals.against_coredns();
    goals.instructions();
    goals.latency();
    goals.size();
    goals.others();
    goals.all
}

struct Goals<'s> {
    sheet: &'s Sheet,
    all: Vec<Goal>,
}

impl Goals<'_> {
    /// Nothing where nothing was measured.
    fn add(&mut self, what: &str, figure: &str, measured: Option<(String, bool)>) {
        if let Some((measured, met)) = measured {
            self.all.push(Goal { what: what.to_owned(), figure: figure.to_owned(), measured, met: Some(met) });
        }
    }

    /// Where the same goal holds for several: each figure by its name, and whether all hold.
    fn each<'a>(
        parts: impl IntoIterator<Item = (&'a str, Option<f64>)>,
        holds: impl Fn(f64) -> bool,
    ) -> Option<(String, bool)> {
        let parts: Vec<(&str, f64)> = parts.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let text: Vec<String> = parts.iter().map(|(name, value)| format!("{name} {value:.2}")).collect();
        (!parts.is_empty()).then(|| (text.join(", "), parts.iter().all(|(_, value)| holds(*value))))
    }

    fn against_echo(&mut self) {
        let of = |item| ratio(self.sheet, "workload", item, OURS);
        let measured = Self::each(["W1", "W4", "W6", "W8"].map(|item| (item, of(item))), |ratio| ratio >= 0.9);
        self.add("CPU against the echo: W1, W4, W6, W8", "at least 0.90", measured);
        for (size, figure) in [("10000", 0.9), ("100000", 0.9), ("1000000", 0.75)] {
            let of = |group| ratio(self.sheet, group, size, OURS);
            let parts = [("W4", of("size-W4")), ("W8", of("size-W8"))];
            let what = format!(
                "CPU against the echo at {} endpoints, names at random",
                thousands(size.parse().unwrap_or(0.0))
            );
            let measured = Self::each(parts, |ratio| ratio >= figure);
            self.add(&what, &format!("at least {figure:.2}"), measured);
        }
    }

    /// How many times our CPU time another server takes.
    fn times(&self, group: &str, item: &str, server: &str) -> Option<f64> {
        let cpu = |server| self.sheet.median(group, item, server, "cpu_us");
        Some(cpu(server)? / cpu(OURS)?)
    }

    fn against_nsd_and_knot(&mut self) {
        let items = self.sheet.items("workload");
        for server in ["nsd", "knot"] {
            let parts: Vec<_> = items.iter().map(|item| (*item, self.times("workload", item, server))).collect();
            let measured = Self::each(parts, |times| times > 1.0);
            self.add(&format!("times our CPU, {server}, every workload"), "above 1", measured);
            let parts = ["W1", "W8"].map(|item| (item, self.times("workload", item, server)));
            let measured = Self::each(parts, |times| times >= 1.4);
            self.add(&format!("times our CPU, {server}, W1 and W8"), "at least 1.4", measured);
            let measured = Self::each([("W4", self.times("size-W4", "1000000", server))], |times| times >= 2.0);
            self.add(&format!("times our CPU, {server}, ordinals at 1,000,000 endpoints"), "at least 2", measured);
        }
    }

    fn against_coredns(&mut self) {
        let times = |item| self.times("workload", item, "coredns");
        let measured = Self::each(["W1", "W8"].map(|item| (item, times(item))), |times| times >= 11.0);
        let ordinals = Self::each([("W4", times("W4"))], |times| times >= 40.0);
        self.add("times our CPU, CoreDNS, W1 and W8", "at least 11", measured);
        self.add("times our CPU, CoreDNS, one ordinal of 5,000", "at least 40", ordinals);
    }

    fn instructions(&mut self) {
        for (item, most) in [("W6", 450.0), ("W1", 500.0), ("W4", 550.0), ("W5", 550.0), ("W3", 1100.0), ("W2", 1600.0)]
        {
            let count = self.sheet.median("instructions", item, OURS, "count");
            let measured = count.map(|count| (thousands(count), count <= most));
            let what = format!("instructions of the engine per answer, {item} (`benches/instructions`)");
            self.add(&what, &format!("at most {}", thousands(most)), measured);
        }
    }

    fn latency(&mut self) {
        for (measure, name, more) in [("p50_us", "p50", 3.0), ("p99_us", "p99", 15.0)] {
            let of = |server| self.sheet.median("latency", "W8", server, measure);
            let measured = of(OURS)
                .zip(of(ECHO))
                .map(|(ours, echo)| (format!("{ours:.1} us, the echo {echo:.1} us"), ours <= echo + more));
            self.add(
                &format!("latency at 50,000 per second, {name}"),
                &format!("the echo's and {more:.0} us"),
                measured,
            );
        }
        let ours = self.sheet.median("latency", "W10", OURS, "p999_us");
        let measured = ours.map(|us| (format!("{us:.0} us"), us <= 300.0));
        self.add("latency at 50,000 per second, p99.9 of W10", "at most 300 us", measured);
    }

    fn size(&mut self) {
        let of = |size, measure| self.sheet.median("size", size, OURS, measure);
        let mut found = Vec::new();
        for (size, memory, ready) in [("10000", 16.0, 50.0), ("100000", 25.0, 300.0), ("1000000", 130.0, 2500.0)] {
            let endpoints = thousands(size.parse().unwrap_or(0.0));
            let mut goal = |what: String, figure: String, measured| found.push((what, figure, measured));
            let is = of(size, "memory_mb").map(|is| (format!("{is:.1} MB"), is <= memory));
            goal(format!("memory at {endpoints} endpoints"), format!("at most {memory:.0} MB"), is);
            let is = of(size, "relist").map(|is| (format!("{is:.2}"), is <= 1.15));
            goal(format!("peak during a relist at {endpoints} endpoints, over steady"), "at most 1.15".to_owned(), is);
            let is = of(size, "ready_ms").map(|is| (format!("{} ms", thousands(is)), is <= ready));
            goal(format!("start to serving at {endpoints} endpoints"), format!("at most {} ms", thousands(ready)), is);
        }
        found.into_iter().for_each(|(what, figure, measured)| self.add(&what, &figure, measured));
    }

    fn others(&mut self) {
        let records = self.sheet.median("workload", "W9", OURS, "most_records");
        let measured = records.map(|count| (thousands(count), count >= 4090.0));
        self.add("A records in one answer over TCP, of 5,000", "at least 4,090", measured);
        let of = |workers| self.sheet.median("workers", workers, OURS, "cpu_us");
        if let Some((one, two)) = of("1").zip(of("2")) {
            self.all.push(Goal {
                what: "two workers against one".to_owned(),
                figure: "1.9 times".to_owned(),
                measured: format!("{:.2} by CPU time alone; the generator has the second CPU", 2.0 * one / two),
                met: None,
            });
        }
        if self.all.is_empty() {
            return;
        }
        for (what, figure, measured) in [
            ("allocations per plain query", "0", "held by `cargo test --test it allocations`"),
            ("change visible, p50 and p99", "150 us and 500 us", "`cargo bench --bench watch -- change` measures it"),
            ("times our CPU, NSD and Knot, W10", "at least 2", "they cannot watch a cluster"),
        ] {
            let (what, figure, measured) = (what.to_owned(), figure.to_owned(), measured.to_owned());
            self.all.push(Goal { what, figure, measured, met: None });
        }
    }
}

/// Name, title, and picture of each plot for which there are figures.
fn plots(sheet: &Sheet) -> Vec<(&'static str, &'static str, String)> {
    let mut plots = Vec::new();
    let items: Vec<&str> =
        sheet.items("workload").into_iter().filter(|item| !sheet.servers("workload", Some(item)).is_empty()).collect();
    let items: Vec<&str> =
        items.into_iter().filter(|item| sheet.median("workload", item, OURS, "cpu_us").is_some()).collect();
    if !items.is_empty() {
        let servers = sheet.servers("workload", None);
        let of = |server: &str| items.iter().map(|item| sheet.median("workload", item, server, "cpu_us")).collect();
        let series: Vec<(&str, Vec<Option<f64>>)> = servers.iter().map(|server| (*server, of(server))).collect();
        let title = "CPU-us per query, by workload (less is better)";
        plots.push(("workloads", title, plot::bars(title, &items, &series, most(&series))));
    }
    for (name, group, measure, title, log) in [
        ("sizes-mix", "size-W8", "cpu_us", "CPU-us per query of the mix, by endpoints (less is better)", false),
        ("sizes-ordinals", "size-W4", "cpu_us", "CPU-us per query of ordinals, by endpoints (less is better)", false),
        ("memory", "size", "memory_mb", "Memory in MB, by endpoints (less is better)", true),
        ("publish", "publish", "us", "Microseconds to publish a Service, by its endpoints (less is better)", true),
    ] {
        let series: Vec<(&str, Vec<(f64, f64)>)> = sheet
            .servers(group, None)
            .into_iter()
            .map(|server| (server, points(sheet, group, server, measure)))
            .filter(|(_, points)| !points.is_empty())
            .collect();
        if !series.is_empty() {
            plots.push((name, title, plot::lines(title, "endpoints", &series, log)));
        }
    }
    plots
}

fn points(sheet: &Sheet, group: &str, server: &str, measure: &str) -> Vec<(f64, f64)> {
    let items = sheet.items(group);
    items.iter().filter_map(|item| Some((item.parse().ok()?, sheet.median(group, item, server, measure)?))).collect()
}

/// So high that the servers that are near each other can be told apart: three times the middle of all, and more where
/// ours is higher.
fn most(series: &[(&str, Vec<Option<f64>>)]) -> f64 {
    let mut all: Vec<f64> = series.iter().flat_map(|(_, values)| values.iter().flatten().copied()).collect();
    all.sort_by(f64::total_cmp);
    let middle = all.get(all.len() / 2).copied().unwrap_or(1.0);
    let highest = all.last().copied().unwrap_or(1.0);
    let ours = series.iter().filter(|(name, _)| *name == OURS).flat_map(|(_, values)| values.iter().flatten());
    ours.copied().fold(middle * 3.0, f64::max).min(highest) * 1.05
}
