//! The command line: subcommands and options, parsed into an [`Invocation`].
//!
//! Every subcommand that reads objects accepts every option, so that one file and one environment are valid for all of them;
//! each ignores the options that do not concern it. `options` declares the options, `layers` decides between flag, variable
//! and file, `variables` refuses unknown environment variables. Not here: the syntax of values (`config`), and the commands
//! themselves (`commands`).

mod layers;
mod options;
mod variables;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::{CheckArgs, Config, DoctorArgs, ExplainArgs, Origins, RecordsArgs};
use headless_dns_core::escape::Printable;

use layers::layered;
use options::{CheckFlags, CliOptions, DoctorFlags, ExplainFlags, FORWARDING_HEADING, LISTENING_HEADING, RecordsFlags};

/// Program name, as in messages and completion scripts.
pub const NAME: &str = env!("CARGO_PKG_NAME");

/// Exit status for wrong use: an invalid flag, variable or file. Equal to clap's.
pub const USAGE_ERROR_STATUS: u8 = 2;

/// Subcommand of a valid command line, with its configuration.
#[derive(Clone, Debug, PartialEq)]
pub enum Invocation {
    /// `serve`: answers DNS queries.
    Serve(Config),
    /// `records`: prints all records of a zone.
    Records(Config, RecordsArgs),
    /// `explain`: prints why a name resolves or does not.
    Explain(Config, ExplainArgs),
    /// `check`: prints findings about objects with names that will not resolve as intended.
    Check(Config, CheckArgs),
    /// `local doctor`: checks the path from this machine's resolver to the server.
    Doctor(DoctorArgs),
    /// `config print`: prints the configuration.
    PrintConfig(Config, Origins),
    /// `completions`: prints a shell's completion script.
    Completions(clap_complete::Shell),
}

/// Reason to end before a command runs.
#[derive(Debug)]
pub enum EarlyExit {
    /// Request for the help or the version, or an error of clap.
    Clap(clap::Error),
    /// Invalid values, in one sentence.
    WrongUse(String),
}

impl EarlyExit {
    /// Returns the error in one sentence.
    pub fn sentence(&self) -> String {
        match self {
            Self::Clap(error) => layers::sentence(error),
            Self::WrongUse(sentence) => sentence.clone(),
        }
    }

    /// Prints the help, the version or the error, and returns the exit status.
    pub fn report(&self) -> ExitCode {
        // Ignore write errors: there is no other place to report them.
        match self {
            Self::Clap(error) => {
                // Escape the help and the version too: they contain values of variables. Printable text keeps clap's colours.
                let _ = match (layers::escaped(error), error.use_stderr()) {
                    (None, _) => error.print(),
                    (Some(text), true) => write!(std::io::stderr(), "{text}"),
                    (Some(text), false) => write!(std::io::stdout(), "{text}"),
                };
                ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE_ERROR_STATUS))
            }
            Self::WrongUse(sentence) => {
                let _ = writeln!(std::io::stderr(), "{NAME}: {}", Printable(sentence));
                ExitCode::from(USAGE_ERROR_STATUS)
            }
        }
    }
}

/// Reads the configuration of this process again: its command line, its environment, and the current content of the file.
///
/// # Errors
///
/// If the configuration is invalid: one sentence.
pub fn read_again() -> Result<Config, String> {
    match read_process() {
        Ok(Invocation::Serve(config)) => Ok(config),
        // Only a serving process calls this, and its command line does not change.
        Ok(_) => Err("this process does not serve".to_owned()),
        Err(stop) => Err(stop.sentence()),
    }
}

/// Reads the command line of this process, its environment and the configuration file.
///
/// # Errors
///
/// [`EarlyExit`] for the help, the version, and invalid input.
pub fn read_process() -> Result<Invocation, EarlyExit> {
    read_checked(std::env::args_os(), std::env::vars_os())
}

/// Reads a command line, the environment and the configuration file. Ignores unknown variables, which [`read_process`]
/// refuses.
///
/// # Errors
///
/// [`EarlyExit`] for the help, the version, and invalid input.
pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, EarlyExit> {
    read_checked(args, [])
}

fn read_checked(
    args: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Invocation, EarlyExit> {
    let (matches, origins) = layered(args.into_iter().collect())?;
    // Skip the check for `completions`: a starting shell runs it, and an unknown variable must not break that shell.
    if matches.subcommand_name() != Some("completions") {
        variables::check(&command(), environment).map_err(EarlyExit::WrongUse)?;
    }
    let cli = Cli::from_arg_matches(&matches).map_err(EarlyExit::Clap)?;
    let invocation = match cli.command {
        Command::Serve(options) => Invocation::Serve(options.config(&origins).map_err(EarlyExit::WrongUse)?),
        Command::Records { export, options } => {
            Invocation::Records(options.config(&origins).map_err(EarlyExit::WrongUse)?, export.into())
        }
        Command::Explain { question, options } => {
            Invocation::Explain(options.config(&origins).map_err(EarlyExit::WrongUse)?, question.into())
        }
        Command::Check { strictness, options } => {
            Invocation::Check(options.config(&origins).map_err(EarlyExit::WrongUse)?, strictness.into())
        }
        Command::Local { command: LocalCommand::Doctor(args) } => Invocation::Doctor(args.into()),
        Command::Config { command: ConfigCommand::Print(options) } => {
            Invocation::PrintConfig(options.config(&origins).map_err(EarlyExit::WrongUse)?, origins)
        }
        Command::Completions { shell } => Invocation::Completions(shell),
    };
    Ok(invocation)
}

/// Returns the clap command, which completion scripts are generated from too.
pub fn command() -> clap::Command {
    // These commands answer no queries: they accept the options of listening and forwarding, and their help hides them.
    ["records", "explain", "check"].into_iter().fold(Cli::command(), |command, quiet| {
        command.mut_subcommand(quiet, |quiet| {
            quiet.mut_args(|arg| {
                let heading = arg.get_help_heading();
                let hidden = heading == Some(LISTENING_HEADING) && arg.get_id() != "listen"
                    || heading == Some(FORWARDING_HEADING);
                arg.hide(hidden)
            })
        })
    })
}

#[derive(Debug, Parser)]
#[command(name = NAME, version, about, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

// The process makes one value of it, so its size does not matter.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Subcommand)]
enum Command {
    /// Answer DNS queries for the Services of a cluster that is watched, or of manifests.
    Serve(CliOptions),
    /// Print all records of one zone.
    Records {
        #[command(flatten)]
        export: RecordsFlags,
        #[command(flatten)]
        options: CliOptions,
    },
    /// Explain why a name resolves or does not: the decision step by step, and the answer, or the causes and their fixes.
    ///
    /// Reads a cluster or manifests, or queries a running server (--server). Exit status: 0 if the name resolves, 1 if it
    /// does not, 2 for wrong use, and if not everything could be read.
    Explain {
        #[command(flatten)]
        question: ExplainFlags,
        #[command(flatten)]
        options: CliOptions,
    },
    /// List StatefulSets, Services and EndpointSlices with names that will not resolve as intended, and the fixes.
    ///
    /// Reads a cluster or manifests. Exit status: 0 if there are no errors, 1 if there are, 2 for wrong use, and if no
    /// cluster could be read.
    Check {
        #[command(flatten)]
        strictness: CheckFlags,
        #[command(flatten)]
        options: CliOptions,
    },
    /// Resolve names of the cluster on this machine.
    Local {
        #[command(subcommand)]
        command: LocalCommand,
    },
    /// Inspect the configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Print a completion script for a shell.
    Completions {
        /// Shell to complete commands in.
        shell: clap_complete::Shell,
    },
}

#[allow(clippy::large_enum_variant)]
#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the effective configuration as a file, with the source of each value.
    Print(CliOptions),
}

#[derive(Debug, Subcommand)]
enum LocalCommand {
    /// Check the path from this machine's resolver to the server, and print the problems and their fixes.
    ///
    /// Exit status: 0 if nothing is wrong, 1 if something is, 2 for wrong use.
    Doctor(DoctorFlags),
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::layers::{key, options, sentence};
    use super::*;
    use crate::config::{AdminConfig, ListenConfig, ManifestPath, Origin, OutputFormat, Source, print};
    use headless_dns_core::naming_rules::{NamingRules, Ordinals};
    use headless_dns_core::object::ObjectRef;
    use headless_dns_core::rtype;

    fn run(line: &str) -> Result<Invocation, String> {
        let args = std::iter::once(NAME).chain(line.split_whitespace()).map(OsString::from);
        read(args).map_err(|stop| match stop {
            EarlyExit::Clap(error) => sentence(&error),
            EarlyExit::WrongUse(sentence) => sentence,
        })
    }

    fn config(line: &str) -> Config {
        match run(line).unwrap() {
            Invocation::Serve(config)
            | Invocation::Records(config, _)
            | Invocation::Explain(config, _)
            | Invocation::Check(config, _)
            | Invocation::PrintConfig(config, _) => config,
            Invocation::Doctor(_) | Invocation::Completions(_) => panic!("no configuration"),
        }
    }

    fn file_with(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn option_declarations_are_consistent() {
        command().debug_assert();
        let command = command();
        let mut keys = Vec::new();
        for option in options(&command) {
            let key = key(option).unwrap();
            let variable = option.get_env().unwrap().to_str().unwrap();
            assert_eq!(variable, format!("{}{}", variables::PREFIX, key.to_uppercase().replace('-', "_")));
            assert!(!variables::is_service_link(variable, "tcp://10.0.0.1:53"), "Kubernetes sets {variable} itself");
            assert!(option.get_help().is_some(), "{key} has no help");
            keys.push(key);
        }
        let printed: Vec<_> = print::entries(&config("serve --demo")).into_iter().map(|(key, _)| key).collect();
        assert_eq!(printed, keys, "`config print` shows every option, in the order of the help");
    }

    #[test]
    fn options_have_documented_defaults() {
        let config = config("serve --manifests a.yaml");
        assert_eq!(config.source, Source::Manifests(vec![ManifestPath::Path("a.yaml".into())]));
        assert_eq!(config.zone.to_string(), "cluster.local.");
        assert_eq!((config.ttl, config.negative_ttl), (Duration::from_secs(5), Duration::from_secs(5)));
        assert_eq!(config.rules, NamingRules::default());
        assert_eq!(config.simulate, []);
        assert!(config.listen.is_default && config.clients.allows_everyone());
        assert_eq!(config.listen.addresses.len(), 2);
        assert_eq!(config.max_manifest_size, 64 << 20);
        assert_eq!(config.explain_to.len(), 8);
    }

    #[test]
    fn client_prefix_has_bounds() {
        let bits = |line: &str| config(line).tcp.client_prefix_v6;
        assert_eq!((bits("serve --demo"), bits("serve --demo --client-prefix-v6 128")), (64, 128));
        let file = file_with("client-prefix-v6 = 48\ndemo = true\n");
        assert_eq!(bits(&format!("serve --config {}", file.path().display())), 48);
        for wrong in ["0", "129", "/64", "-1"] {
            let error = match run(&format!("serve --demo --client-prefix-v6={wrong}")) {
                Err(error) => error,
                Ok(invocation) => panic!("{wrong} is taken: {invocation:?}"),
            };
            assert!(error.contains("is not a whole number of bits from 1 to 128"), "{error}");
        }
    }

    #[test]
    fn parses_explain_to() {
        let explain_to = |line: &str| config(line).explain_to.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(explain_to("serve --demo --explain-to none"), Vec::<String>::new());
        assert_eq!(explain_to("serve --demo --explain-to 10.0.0.0/8,::1"), ["10.0.0.0/8", "::1/128"]);
        let file = file_with("explain-to = 'none'\ndemo = true\n");
        let path = file.path().display().to_string();
        let Ok(Invocation::PrintConfig(config, origins)) = run(&format!("config print --config {path}")) else {
            panic!("the file is good")
        };
        assert!(config.explain_to.is_empty());
        assert!(print::text(&config, &origins).contains("explain-to = \"none\""));
    }

    #[test]
    fn parses_forwarding_options() {
        let forward = |line: &str| config(line).forward;
        let off = forward("serve --demo");
        assert!(off.to.is_empty() && off.aliases.is_empty());
        let some = forward("serve --demo --forward system,192.0.2.1 --forward tls://[2001:db8::1]#dns.example");
        assert_eq!(some.to.len(), 3);
        assert_eq!(some.clients.iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.0/8", "::1/128"]);
        let some =
            forward("serve --demo --forward ::1 --forward-for 10.0.0.0/8 --external-name-upstream 192.0.2.1:5353");
        assert_eq!(some.clients.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/8"]);
        assert_eq!(some.aliases.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.1:5353"]);
        for (line, error) in [
            ("--forward-for 10.0.0.0/8", "--forward-for (flag) limits the clients of --forward, which is not set"),
            ("--forward ::1,[::1]:53", "--forward [::1]:53 is given twice"),
            (
                "--external-name-upstream system --external-name-upstream system",
                "--external-name-upstream system is given twice",
            ),
        ] {
            assert_eq!(run(&format!("serve --demo {line}")).unwrap_err(), error);
        }
        // The printed configuration without upstreams is a valid file.
        let Ok(Invocation::PrintConfig(config, origins)) = run("config print --demo") else { panic!("it is good") };
        let file = file_with(&print::text(&config, &origins));
        assert!(run(&format!("serve --config {}", file.path().display())).is_ok());
    }

    #[test]
    fn parses_admin_address() {
        let admin = |line: &str| {
            let AdminConfig { address, api } = config(line).admin;
            [address, api].map(|one| one.map_or("none".to_owned(), |address| address.to_string()))
        };
        assert_eq!(admin("serve"), ["127.0.0.1:9153", "none"], "a cluster's server is looked at");
        assert_eq!(admin("serve --admin none"), ["none", "none"]);
        assert_eq!(admin("serve --demo"), ["none", "none"]);
        assert_eq!(admin("serve --demo --admin ::1"), ["[::1]:9153", "none"]);
        assert_eq!(admin("serve --admin 0.0.0.0:9153 --admin-api 10.0.0.5"), ["0.0.0.0:9153", "10.0.0.5:9153"]);
    }

    #[test]
    fn source_is_cluster_without_manifests() {
        let cluster = |kubeconfig: Option<&str>, context: Option<&str>| Source::Cluster {
            kubeconfig: kubeconfig.map(Into::into),
            context: context.map(Into::into),
            selector: None,
        };
        assert_eq!(config("serve").source, cluster(None, None));
        assert_eq!(config("records --context b --kubeconfig a/c").source, cluster(Some("a/c"), Some("b")));
    }

    #[test]
    fn values_are_parsed() {
        let config = config(
            "serve --manifests a --manifests - --zone A.example --zone-alias b.example,c.example --listen ::1 \
             --simulate=10.1.0.0/16 --ns-address 10.96.0.53 --service kube-system/dns -n team --workers 3 \
             --nsid dns-0 --ordinals any --endpoint-pod-names --tcp-idle 9 --log warn,headless_dns=debug",
        );
        let zones: Vec<_> = config.zones().map(ToString::to_string).collect();
        assert_eq!(zones, ["a.example.", "b.example.", "c.example."]);
        assert_eq!(config.listen, ListenConfig { addresses: vec!["[::1]:53".parse().unwrap()], is_default: false });
        assert_eq!(config.simulate, ["10.1.0.0/16".parse::<ipnet::IpNet>().unwrap()]);
        assert_eq!(config.service, Some(ObjectRef::new("kube-system", "dns")));
        assert_eq!((config.namespace.as_deref(), config.workers.get()), (Some("team"), 3));
        assert_eq!(config.nsid.as_deref(), Some("dns-0"));
        assert!(config.rules.endpoint_pod_names && config.rules.ordinals == Ordinals::Any);
        assert_eq!(config.tcp.idle, Duration::from_secs(9));
    }

    #[test]
    #[cfg(all(feature = "tls", feature = "https", feature = "quic"))]
    fn rejects_invalid_encrypted_listeners() {
        for (line, part) in [
            (
                "serve --demo --listen-tls 127.0.0.1",
                "--listen-tls needs a certificate: name its files with --tls-cert and",
            ),
            ("serve --demo --listen-quic ::1 --tls-key k", "--tls-key is set without --tls-cert, the file of its cert"),
            ("serve --demo --tls-cert c", "--tls-cert is set without --tls-key, the file of its private key"),
            (
                "serve --demo --tls-cert c --tls-key k",
                "--tls-cert and --tls-key are for --listen-tls, --listen-https and --listen-quic, of which none is set",
            ),
            (
                "serve --demo --tls-cert c --tls-key k --listen-tls ::1,[::1]:853",
                "--listen-tls [::1]:853 is given twice",
            ),
            (
                "serve --demo --tls-cert c --tls-key k --listen-tls 127.0.0.1:443 --listen-https 0.0.0.0",
                "--listen-https 0.0.0.0:443 and --listen-tls 127.0.0.1:443 are one port: choose another for --listen-https",
            ),
            (
                "serve --demo --tls-cert c --tls-key k --listen ::1 --listen-quic [::1]:53",
                "--listen-quic [::1]:53 and --listen [::1]:53 are one port: choose another for --listen-quic",
            ),
            (
                "serve --demo --tls-cert c --tls-key k --listen-https ::1 --admin [::1]:443",
                "--admin [::1]:443 and --listen-https [::1]:443 are one port: choose another for --admin",
            ),
            (
                "serve --demo --listen-https doh",
                "\"doh\" is not an address to listen on: write 127.0.0.1:443, [::1]:443, or",
            ),
        ] {
            let sentence = run(line).unwrap_err();
            assert!(sentence.contains(part) && !sentence.contains('\n'), "{line}: {sentence}");
        }
    }

    #[test]
    #[cfg(not(all(feature = "tls", feature = "https", feature = "quic")))]
    fn rejects_options_of_missing_features() {
        for (feature, is_there) in
            [("tls", cfg!(feature = "tls")), ("https", cfg!(feature = "https")), ("quic", cfg!(feature = "quic"))]
        {
            let said = run(&format!("serve --demo --listen-{feature} ::1 --tls-cert c --tls-key k"));
            let what = feature.to_uppercase();
            let expected = format!(
                "--listen-{feature}: this build has no DNS over {what}: build with the cargo feature {feature}"
            );
            assert_eq!(said.err(), (!is_there).then_some(expected));
        }
    }

    #[test]
    #[cfg(all(feature = "tls", feature = "https", feature = "quic"))]
    fn parses_encrypted_listeners() {
        let encrypted = config(
            "serve --demo --tls-cert tls.crt --tls-key tls.key --listen-tls 127.0.0.1,[::1]:8853 --listen-https ::1 \
             --listen-quic 127.0.0.1 --listen-quic 127.0.0.1:0,127.0.0.1:0",
        )
        .encrypted;
        let text = |addresses: &[std::net::SocketAddr]| {
            addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(text(&encrypted.tls), "127.0.0.1:853 [::1]:8853");
        assert_eq!(text(&encrypted.https), "[::1]:443");
        // UDP port 853 (QUIC) does not clash with TCP port 853 (TLS).
        assert_eq!(text(&encrypted.quic), "127.0.0.1:853 127.0.0.1:0 127.0.0.1:0");
        assert_eq!(encrypted.pair(), Some(("tls.crt".as_ref(), "tls.key".as_ref())));
        assert_eq!(config("serve --demo").encrypted, crate::config::EncryptedConfig::default());
    }

    #[test]
    fn parses_explain_and_check() {
        let question = |line: &str| match run(line) {
            Ok(Invocation::Explain(config, question)) => {
                let ExplainArgs { name, qtype, server, output } = question;
                Ok(format!(
                    "{name:?} {} {server:?} {output} {}",
                    rtype::name(qtype),
                    config.namespace.as_deref().unwrap_or("default")
                )
                .replace("WireName(", "("))
            }
            Ok(other) => panic!("{other:?}"),
            Err(sentence) => Err(sentence),
        };
        for (line, expected) in [
            ("explain a", "Relative(([1, 97, 0])) A None text default"),
            ("explain a. aaaa -n shop -o json", "Absolute(([1, 97, 0])) AAAA None json shop"),
            ("explain --demo --simulate 10.0.0.1", "Address(10.0.0.1) PTR None text default"),
            ("explain 10.0.0.1 TYPE65 --server ::1", "Address(10.0.0.1) HTTPS Some(Dns([::1]:53)) text default"),
        ] {
            assert_eq!(question(line).as_deref(), Ok(expected), "{line}");
        }
        for (line, expected) in [
            ("explain a..b", "\"a..b\" is not a domain name: "),
            ("explain a AXFR", "\"AXFR\" is not a record type: "),
            ("explain a A --server somewhere", "\"somewhere\" is not the address of a server: "),
            ("explain", "the following required arguments were not provided: <NAME>"),
        ] {
            let sentence = question(line).unwrap_err();
            assert!(sentence.starts_with(expected), "{line}: {sentence}");
        }
        let Ok(Invocation::Check(_, strictness)) = run("check --demo --strict -o json") else { panic!("it is good") };
        assert_eq!(strictness, CheckArgs { strict: true, output: OutputFormat::Json });
    }

    #[test]
    fn simulate_never_swallows_a_word() {
        for (line, networks) in [
            ("serve --demo", "10.244.0.0/16"),
            ("serve --demo --simulate=false", ""),
            ("serve --demo --simulate=fd00::/64", "fd00::/64"),
            ("serve --simulate --manifests a", "10.244.0.0/16"),
            ("serve --manifests a", ""),
            ("serve --manifests a --simulate --simulate=fd00::/64", "10.244.0.0/16 fd00::/64"),
            ("serve --manifests a --simulate=fd00::/64,10.1.0.0/16", "fd00::/64 10.1.0.0/16"),
        ] {
            let simulated: Vec<String> = config(line).simulate.iter().map(ToString::to_string).collect();
            assert_eq!(simulated.join(" "), networks, "{line}");
        }
        assert!(run("serve --manifests a --simulate 10.1.0.0/16").unwrap_err().contains("unexpected argument"));
        let twice = run("serve --manifests a --simulate --simulate=10.1.0.0/16").unwrap_err();
        assert!(
            twice.contains("--simulate 10.244.0.0/16 and --simulate 10.1.0.0/16 are networks of one family"),
            "{twice}"
        );
        let both = run("serve --manifests a --simulate --simulate=false").unwrap_err();
        assert!(both.contains("--simulate false and --simulate 10.244.0.0/16 exclude each other"), "{both}");
    }

    #[test]
    fn rejects_wrong_use() {
        for (line, part) in [
            ("serve --context a --demo", "--demo (flag) and --context (flag) exclude each other"),
            ("serve --kubeconfig a --manifests b", "--manifests (flag) and --kubeconfig (flag) exclude each other"),
            ("serve --demo --manifests a", "--demo (flag) and --manifests (flag) exclude each other"),
            (
                "serve --demo --zone-alias cluster.local",
                "the zone alias cluster.local is the same as the zone cluster.local",
            ),
            ("serve --demo --zone-alias a.cluster.local", "overlaps the zone cluster.local"),
            ("serve --demo --zone-alias local", "overlaps the zone cluster.local"),
            ("serve --demo --zone-alias a.b,b", "the zone alias b overlaps the zone a.b"),
            ("serve --demo --zone 10.in-addr.arpa", "use --reverse"),
            ("serve --demo --zone arpa", "use --reverse"),
            ("serve --demo --listen 127.0.0.1:53,127.0.0.1", "--listen 127.0.0.1:53 is given twice"),
            ("serve --manifests - --manifests -", "--manifests - is given twice"),
            ("serve --demo --zone a..b", "is not a domain name"),
            ("serve --demo --explain-to none,::1", "--explain-to none and --explain-to ::1/128 exclude each other"),
            (
                "serve --demo --explain-to nobody",
                "\"nobody\" is not a network: write it as 10.0.0.0/8 or fd00::/8; or none",
            ),
            (
                "serve --demo --admin localhost:1",
                "\"localhost:1\" is not an address to listen on: write 127.0.0.1:9153",
            ),
            (
                "serve --demo --admin 127.0.0.1:1053",
                "--admin 127.0.0.1:1053 and --listen 127.0.0.1:1053 are one port: choose another for --admin",
            ),
            ("serve --admin-api 0.0.0.0:1053", "--admin-api 0.0.0.0:1053 and --listen 127.0.0.1:1053 are one port"),
            ("records --server ::1", "\"::1\" is not the address of an admin listener: write http://127.0.0.1:9153"),
            ("serve --demo --ttl 86401", "\"86401\" is not a whole number of seconds from 0 to 86400"),
            ("serve --demo --tcp-connections 0", "from 1 to 1000000"),
            ("serve --demo --ptr some", "[possible values: all, hostname-only]"),
            ("serve --demo --nonsense", "unexpected argument '--nonsense'"),
            ("serve --demo --upstream=::1", "--upstream: the option was renamed: write --external-name-upstream"),
            ("records --demo --output xml", "[possible values: zone, json, table]"),
        ] {
            let sentence = run(line).unwrap_err();
            assert!(sentence.contains(part) && !sentence.contains('\n'), "{line}: {sentence}");
        }
        run("serve --demo --listen 127.0.0.1:0,127.0.0.1:0").unwrap();
    }

    #[test]
    fn flags_override_file() {
        let file =
            file_with("ttl = 60\nzone = 'a.example'\ndemo = true\nsimulate = true\nlisten = ['::1', '127.0.0.1']\n");
        let path = file.path().display().to_string();
        let config = config(&format!("serve --config {path} --ttl 7 --"));
        assert_eq!(config.ttl, Duration::from_secs(7));
        assert_eq!(config.zone.to_string(), "a.example.");
        assert_eq!((config.source, config.listen.addresses.len()), (Source::Demo, 2));
        assert!(!config.listen.is_default);
        let Ok(Invocation::PrintConfig(_, origins)) = run(&format!("config print --config {path} --ttl 7")) else {
            panic!("the file is good")
        };
        assert_eq!(origins["ttl"], Origin::Flag);
        assert_eq!(origins["zone"], Origin::File { path: path.clone(), line: 2 });
        assert!(!origins.contains_key("ptr"));
        let both = run(&format!("serve --config {path} --manifests a")).unwrap_err();
        assert_eq!(both, format!("--demo (file {path} line 3) and --manifests (flag) exclude each other"));
        run(&format!("serve --config {path} --manifests a --demo=false")).unwrap();
    }

    #[test]
    fn file_errors_name_line() {
        for (text, sentence) in [
            ("\nttl = -1", ", line 2: ttl: \"-1\" is not a whole number of seconds from 0 to 86400"),
            ("ttl = 1\nzone_alias = 'a'", ", line 2: zone_alias: there is no such key; the nearest is zone-alias"),
            ("output = 'json'", ", line 1: output: there is no such key; the nearest is"),
            ("config = 'x'", ", line 1: config: there is no such key"),
            ("\nupstream = '::1'", ", line 2: upstream: the key was renamed: write external-name-upstream"),
            ("allow = []", ", line 1: allow: the list is empty: leave the key out for the default"),
            ("zone = ['a', 'b']", ", line 1: zone: the argument '--zone <ZONE>' cannot be used multiple times"),
            (
                "ptr = 'some'",
                ", line 1: ptr: invalid value 'some' for '--ptr <WHICH>' [possible values: all, hostname-only]",
            ),
            ("demo = 'perhaps'", ", line 1: demo: "),
            ("[zone]", ", line 1: zone: expected text, a number"),
        ] {
            let file = file_with(text);
            let path = file.path().display().to_string();
            let error = run(&format!("serve --config {path} --manifests a")).unwrap_err();
            assert!(error.starts_with(&format!("{path}{sentence}")) && !error.contains('\n'), "{text:?}: {error}");
        }
        assert!(run("serve --config /nowhere.toml").unwrap_err().starts_with("cannot read /nowhere.toml: "));
    }
}
