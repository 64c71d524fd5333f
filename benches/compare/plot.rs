//! Plots as SVG: bars and lines, and nothing else.
//!
//! Plain text, so that a change of a figure is a change of a line. Each has a white ground, for readers with a dark page.

use std::fmt::Write as _;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 62.0;
const BOTTOM: f64 = 44.0;

/// A server has one colour in every plot.
fn colour(server: &str) -> &'static str {
    match server {
        "echo" => "#9a9a9a",
        "headless-dns" => "#0b62c4",
        "nsd" => "#e08214",
        "knot" => "#35978f",
        "bind" => "#8073ac",
        "coredns" => "#b2182b",
        "coredns-cache" => "#ef8a8a",
        _ => "#6b8e23",
    }
}

/// Bars side by side for each group; one above `most` is cut there, and says how high it is.
pub fn bars(title: &str, groups: &[&str], series: &[(&str, Vec<Option<f64>>)], most: f64) -> String {
    let mut svg = begin(title, series.iter().map(|(name, _)| *name));
    axis(&mut svg, most, |value| height(value, most));
    let slot = (WIDTH - LEFT - RIGHT) / groups.len().max(1) as f64;
    let bar = slot * 0.84 / series.len().max(1) as f64;
    for (at, group) in groups.iter().enumerate() {
        let left = LEFT + slot * at as f64 + slot * 0.08;
        label(&mut svg, left + slot * 0.42, HEIGHT - BOTTOM + 18.0, "middle", group);
        for (number, (name, values)) in series.iter().enumerate() {
            let Some(value) = values.get(at).copied().flatten() else { continue };
            let (x, y) = (left + bar * number as f64, height(value.min(most), most));
            let _ = writeln!(
                svg,
                r#"<rect x="{x:.1}" y="{y:.1}" width="{:.1}" height="{:.1}" fill="{}"><title>{name}, {group}: {value:.2}</title></rect>"#,
                bar * 0.92,
                HEIGHT - BOTTOM - y,
                colour(name)
            );
            if value > most {
                let _ = writeln!(
                    svg,
                    r#"<text x="{:.1}" y="{:.1}" font-size="9" fill="white" transform="rotate(-90 {0:.1} {1:.1})">{value:.0}</text>"#,
                    x + bar * 0.75,
                    y + 24.0
                );
            }
        }
    }
    svg + "</svg>\n"
}

/// Lines with a mark at each point; both axes by powers of ten, or only the lower one.
pub fn lines(title: &str, unit: &str, series: &[(&str, Vec<(f64, f64)>)], log: bool) -> String {
    let points = || series.iter().flat_map(|(_, points)| points);
    let mut svg = begin(title, series.iter().map(|(name, _)| *name));
    let low = points().map(|point| point.0).fold(f64::MAX, f64::min).max(1.0);
    let high = points().map(|point| point.0).fold(low * 10.0, f64::max);
    let most = points().map(|point| point.1).fold(f64::MIN_POSITIVE, f64::max) * 1.1;
    let least = points().map(|point| point.1).fold(most, f64::min).max(1e-3) * 0.8;
    let across = |x: f64| {
        LEFT + 20.0 + (x.max(1.0).log10() - low.log10()) / (high.log10() - low.log10()) * (WIDTH - LEFT - RIGHT - 60.0)
    };
    let up = |y: f64| {
        let share = if log { (y.max(least) / least).log10() / (most / least).log10() } else { y / most };
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    };
    if log {
        let mut tick = 10_f64.powf(least.log10().ceil());
        while tick <= most {
            rule(&mut svg, up(tick), tick);
            tick *= 10.0;
        }
    } else {
        axis(&mut svg, most, up);
    }
    let mut marked: Vec<f64> = points().map(|point| point.0).collect();
    marked.sort_by(f64::total_cmp);
    marked.dedup();
    for x in marked {
        label(&mut svg, across(x), HEIGHT - BOTTOM + 18.0, "middle", &thousands(x));
    }
    label(&mut svg, WIDTH - RIGHT, HEIGHT - 8.0, "end", unit);
    for (name, points) in series {
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{:.1},{:.1}", across(*x), up(*y))).collect();
        let colour = colour(name);
        let _ =
            writeln!(svg, r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#, path.join(" "));
        for (x, y) in points {
            let (left, top) = (across(*x), up(*y));
            let _ = writeln!(
                svg,
                r#"<circle cx="{left:.1}" cy="{top:.1}" r="3.5" fill="{colour}"><title>{name}, {}: {y:.2}</title></circle>"#,
                thousands(*x)
            );
        }
    }
    svg + "</svg>\n"
}

/// The ground, the title, and which colour is whose.
fn begin<'a>(title: &str, names: impl Iterator<Item = &'a str>) -> String {
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">
<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>
<text x="{LEFT}" y="22" font-size="15" font-weight="bold">{title}</text>
"#
    );
    let mut x = LEFT;
    for name in names {
        let _ = writeln!(svg, r#"<rect x="{x:.0}" y="34" width="10" height="10" fill="{}"/>"#, colour(name));
        label(&mut svg, x + 14.0, 43.0, "start", name);
        x += 26.0 + 7.2 * name.len() as f64;
    }
    svg
}

fn height(value: f64, most: f64) -> f64 {
    HEIGHT - BOTTOM - value / most * (HEIGHT - TOP - BOTTOM)
}

/// Up to eight lines across, at round values.
fn axis(svg: &mut String, most: f64, up: impl Fn(f64) -> f64) {
    let power = 10_f64.powf((most / 8.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| most / step <= 8.0);
    let step = step.unwrap_or(most);
    let mut tick = 0.0;
    while tick <= most {
        rule(svg, up(tick), tick);
        tick += step;
    }
}

fn rule(svg: &mut String, y: f64, value: f64) {
    let _ =
        writeln!(svg, r##"<line x1="{LEFT}" y1="{y:.1}" x2="{:.0}" y2="{y:.1}" stroke="#dddddd"/>"##, WIDTH - RIGHT);
    // Neither 0.30000000000000004 nor 1e3.
    let text = format!("{value:.3}");
    let text =
        if value >= 1000.0 { thousands(value) } else { text.trim_end_matches('0').trim_end_matches('.').to_owned() };
    label(svg, LEFT - 6.0, y + 4.0, "end", &text);
}

fn label(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let _ = writeln!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#);
}

/// 1000000 as 1,000,000.
pub fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) && digits.as_bytes()[at - 1] != b'-' {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
