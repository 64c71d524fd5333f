//! `compare load`: the generator for people and scripts.

use std::fs;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use super::{Expect, Figures, Load, Over, Pace, Question, run};

const USAGE: &str = "\
usage: compare load HOST:PORT QUERYFILE SECONDS [OPTION...]
  QUERYFILE has lines `NAME TYPE`; what comes is counted, and must answer what was asked
  --window N           so many queries in flight, over all sockets (128)
  --rate N             so many queries per second instead, however late the answers are
  --sockets N          UDP sockets (1)
  --tcp C D            over TCP: C connections, up to D queries in flight on each
  --tcp-per-query N    over TCP: a connection for each query, N at once
  --pid PID...         the server's processes, whose CPU time per answer is printed
  --cpu N              the CPU that the generator runs on
  --no-edns            without an OPT record (with one: 1232 octets)
  --rd                 recursion desired";

/// Prints one line of `field value` pairs; 1 if an answer was wrong, 2 if nothing could be asked.
pub(crate) fn command(arguments: &[String]) -> ExitCode {
    let figures = Command::read(arguments).and_then(|command| {
        let Command { to, over, pace, time, questions, server, cpu } = &command;
        let load = Load { to: *to, over: *over, pace: *pace, time: *time, questions, server, cpu: *cpu };
        run(&load).map_err(|error| error.to_string())
    });
    match figures {
        Ok(figures) => {
            println!("{}", line(&figures));
            figures.wrong.iter().for_each(|sentence| eprintln!("compare load: wrong: {sentence}"));
            ExitCode::from(u8::from(figures.mistakes > 0))
        }
        Err(error) => {
            eprintln!("compare load: {error}");
            ExitCode::from(2)
        }
    }
}

fn line(figures: &Figures) -> String {
    let us = |share: f64| figures.latency.percentile(share) as f64 / 1e3;
    let each = |sum: u64| sum as f64 / figures.answered.max(1) as f64;
    let fields: [(&str, String); 22] = [
        ("qps", format!("{:.0}", figures.answered as f64 / figures.seconds)),
        ("sent", figures.sent.to_string()),
        ("answered", figures.answered.to_string()),
        ("lost", figures.lost.to_string()),
        ("late", figures.late.to_string()),
        ("unsent", figures.unsent.to_string()),
        ("cpu_us_per_q", format!("{:.3}", figures.cpu_ns_per_query / 1e3)),
        ("mean_us", format!("{:.1}", figures.latency.mean() / 1e3)),
        ("p50us", format!("{:.1}", us(0.5))),
        ("p99us", format!("{:.1}", us(0.99))),
        ("p999us", format!("{:.1}", us(0.999))),
        ("behind_p99us", format!("{:.1}", figures.behind.percentile(0.99) as f64 / 1e3)),
        ("NOERROR", figures.noerror.to_string()),
        ("NXDOMAIN", figures.nxdomain.to_string()),
        ("other", figures.other.to_string()),
        ("tc", figures.truncated.to_string()),
        ("ans/q", format!("{:.2}", each(figures.records))),
        ("bytes/q", format!("{:.0}", each(figures.octets))),
        ("batch", format!("{:.1}", figures.batches)),
        ("connections", figures.connections.to_string()),
        ("checked", figures.checked.to_string()),
        ("wrong", figures.mistakes.to_string()),
    ];
    fields.map(|(name, value)| format!("{name} {value}")).join(" ")
}

struct Command {
    to: SocketAddr,
    over: Over,
    pace: Pace,
    time: Duration,
    questions: Vec<Question>,
    server: Vec<u32>,
    cpu: Option<usize>,
}

impl Command {
    fn read(arguments: &[String]) -> Result<Self, String> {
        let [to, file, seconds, options @ ..] = arguments else { return Err(USAGE.to_owned()) };
        let to = to.parse().map_err(|_| format!("`{to}` is not ADDRESS:PORT, like 127.0.0.1:53 or [::1]:53"))?;
        let seconds: f64 = number("SECONDS", Some(seconds))?;
        let time = Duration::try_from_secs_f64(seconds).ok().filter(|time| !time.is_zero());
        let time = time.ok_or_else(|| format!("SECONDS is {seconds}, and should be more than 0"))?;
        let mut over = Over::Udp { sockets: 1 };
        let mut pace = Pace::Closed { window: 128 };
        let (mut server, mut cpu, mut edns, mut recursion) = (Vec::new(), None, true, false);
        let mut options = options.iter().peekable();
        while let Some(option) = options.next() {
            let mut count = || number(option, options.next()).and_then(|count: usize| positive(option, count));
            match option.as_str() {
                "--window" => pace = Pace::Closed { window: count()? },
                "--rate" => pace = Pace::Open { per_second: count()? as u64 },
                "--sockets" => over = Over::Udp { sockets: count()? },
                "--tcp" => over = Over::Tcp { connections: count()?, depth: count()? },
                "--tcp-per-query" => over = Over::TcpPerQuery { at_once: count()? },
                "--cpu" => cpu = Some(number(option, options.next())?),
                "--no-edns" => edns = false,
                "--rd" => recursion = true,
                "--pid" => {
                    server.push(number(option, options.next())?);
                    while let Some(process) = options.next_if(|next| !next.starts_with("--")) {
                        server.push(number(option, Some(process))?);
                    }
                }
                _ => return Err(format!("there is no option `{option}`\n{USAGE}")),
            }
        }
        let questions = questions(file, edns, recursion)?;
        Ok(Self { to, over, pace, time, questions, server, cpu })
    }
}

fn number<T: std::str::FromStr>(what: &str, text: Option<&String>) -> Result<T, String> {
    let Some(text) = text else { return Err(format!("a number is missing behind {what}")) };
    text.parse().map_err(|_| format!("{what}: `{text}` is not a number"))
}

fn positive(what: &str, count: usize) -> Result<usize, String> {
    if count == 0 { Err(format!("{what} is 0, and should be at least 1")) } else { Ok(count) }
}

fn questions(file: &str, edns: bool, recursion: bool) -> Result<Vec<Question>, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let questions = lines.map(|(index, line)| {
        let message = query(line, edns, recursion).map_err(|what| format!("{file} line {}: {what}", index + 1))?;
        Ok(Question { message, expect: Expect::Anything })
    });
    questions.collect()
}

/// The query of a line `NAME TYPE`, in class IN.
fn query(line: &str, edns: bool, recursion: bool) -> Result<Vec<u8>, String> {
    let mut words = line.split_whitespace();
    let (Some(name), Some(qtype), None) = (words.next(), words.next(), words.next()) else {
        return Err(format!("`{line}` is not `NAME TYPE`"));
    };
    let mut message = vec![0, 0, u8::from(recursion), 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let length = u8::try_from(label.len()).ok().filter(|length| *length < 64);
        message.push(length.ok_or_else(|| format!("a label of `{name}` has more than 63 octets"))?);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    if message.len() > 12 + 255 {
        return Err(format!("`{name}` has more than 255 octets"));
    }
    message.extend_from_slice(&rtype(qtype)?.to_be_bytes());
    message.extend_from_slice(&[0, 1]);
    if edns {
        message.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    }
    Ok(message)
}

fn rtype(name: &str) -> Result<u16, String> {
    const TYPES: &[(&str, u16)] = &[
        ("A", 1),
        ("NS", 2),
        ("CNAME", 5),
        ("SOA", 6),
        ("PTR", 12),
        ("MX", 15),
        ("TXT", 16),
        ("AAAA", 28),
        ("SRV", 33),
        ("ANY", 255),
    ];
    let known = TYPES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, number)| *number);
    known
        .or_else(|| name.parse().ok())
        .ok_or_else(|| format!("`{name}` is no type that is known here: give its number"))
}

#[cfg(test)]
#[allow(unused_imports, reason = "a benchmark runs no tests: `tests/it` runs these")]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Command, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "web.x A\n\n. 65\n").unwrap();
        let path = file.path().to_str().unwrap();
        let words: Vec<_> = line.split_whitespace().map(|word| word.replace("FILE", path)).collect();
        Command::read(&words).map_err(|error| error.replace(path, "FILE"))
    }

    #[test]
    fn parses_options() {
        let command = read("[::1]:53 FILE 0.5 --sockets 4 --rate 1000 --pid 7 8 --cpu 1").unwrap();
        assert_eq!((command.over, command.pace), (Over::Udp { sockets: 4 }, Pace::Open { per_second: 1000 }));
        assert_eq!((command.server, command.cpu, command.time), (vec![7, 8], Some(1), Duration::from_millis(500)));
        let web = b"\0\0\0\0\0\x01\0\0\0\0\0\x01\x03web\x01x\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0";
        assert_eq!(command.questions[0].message, web);
        let command = read("127.0.0.1:53 FILE 2 --tcp 1000 2 --window 9 --no-edns --rd").unwrap();
        let over = Over::Tcp { connections: 1000, depth: 2 };
        assert_eq!((command.over, command.pace), (over, Pace::Closed { window: 9 }));
        assert_eq!(command.questions[1].message, b"\0\0\x01\0\0\x01\0\0\0\0\0\0\0\0\x41\0\x01");
        let command = read("127.0.0.1:53 FILE 2 --tcp-per-query 3").unwrap();
        assert_eq!(command.over, Over::TcpPerQuery { at_once: 3 });
    }

    #[test]
    fn names_invalid_input() {
        for (line, sentence) in [
            ("localhost:53 FILE 1", "`localhost:53` is not ADDRESS:PORT, like 127.0.0.1:53 or [::1]:53"),
            ("127.0.0.1:53 FILE 0", "SECONDS is 0, and should be more than 0"),
            ("127.0.0.1:53 FILE x", "SECONDS: `x` is not a number"),
            ("127.0.0.1:53 FILE 1 --window", "a number is missing behind --window"),
            ("127.0.0.1:53 FILE 1 --sockets 0", "--sockets is 0, and should be at least 1"),
            ("127.0.0.1:53 FILE 1 --tcp 3 --rd", "--tcp: `--rd` is not a number"),
            ("127.0.0.1:53 missing.file 1", "missing.file: No such file or directory (os error 2)"),
            ("127.0.0.1:53", USAGE),
        ] {
            assert_eq!(read(line).err().as_deref(), Some(sentence), "{line}");
        }
        assert!(read("127.0.0.1:53 FILE 1 --fast").err().unwrap().starts_with("there is no option `--fast`\nusage: "));
        let long = "a.".repeat(130);
        for (line, sentence) in [
            ("web.x", "`web.x` is not `NAME TYPE`".to_owned()),
            ("web.x A IN", "`web.x A IN` is not `NAME TYPE`".to_owned()),
            ("web.x AA", "`AA` is no type that is known here: give its number".to_owned()),
            (&format!("{long} A"), format!("`{long}` has more than 255 octets")),
        ] {
            assert_eq!(query(line, true, false).unwrap_err(), sentence);
        }
    }
}
