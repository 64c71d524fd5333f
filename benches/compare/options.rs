//! What the command lines of benchmarks have in common, and what they say of the machine.

use anyhow::{Context as _, Result};

/// A list of names, each of which has to be one of `all`.
///
/// # Errors
///
/// One sentence, with the option and the name.
pub(crate) fn one_of(flag: &str, value: &str, all: &[&str]) -> Result<Vec<String>> {
    let one = |name: &str| {
        let known = all.contains(&name);
        known.then(|| name.to_owned()).with_context(|| format!("{flag} {name}: it is one of {}", all.join(", ")))
    };
    value.split(',').map(one).collect()
}

/// The kernel's version, without what its builder put behind it.
pub(crate) fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().split('-').next().unwrap_or_default().to_owned()
}
