//! Default number of worker threads.
//!
//! The number of CPUs in the affinity mask, limited by the CPU quota of the control group, which is rounded up so that the
//! whole quota can be used. Both are read from `/proc` and `/sys/fs/cgroup` of Linux. If these cannot be read, the count of the
//! standard library is used.

use std::num::NonZeroUsize;
use std::path::Path;

use crate::regular_file::{self, MAX_SMALL_FILE};

/// Returns the default of `--workers`.
pub fn default_workers() -> NonZeroUsize {
    let read = |path: &Path| regular_file::read_text(path, MAX_SMALL_FILE).ok();
    let allowed = read(Path::new("/proc/self/status")).and_then(|status| cpus_allowed(&status));
    let quota = read(Path::new("/proc/self/cgroup")).and_then(|groups| quota(&groups, read));
    let counted = allowed.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
    quota.map_or(counted, |quota| quota.min(counted))
}

/// Returns the number of CPUs in the affinity mask, from the text of `/proc/self/status`: `Cpus_allowed_list: 0-3,8`.
fn cpus_allowed(status: &str) -> Option<NonZeroUsize> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let counts = list.trim().split(',').map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        Some(last.checked_sub(first)? + 1)
    });
    NonZeroUsize::new(counts.sum::<Option<usize>>()?)
}

/// Returns the smallest quota of this process's control group and its ancestors, in CPUs, from the text of
/// `/proc/self/cgroup`.
fn quota(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<NonZeroUsize> {
    groups.lines().filter_map(|line| group_quota(line, &read)).min()
}

/// Returns the quota of one line, `HIERARCHY:CONTROLLERS:PATH`; cgroup version 2 has hierarchy 0 and no controllers.
fn group_quota(line: &str, read: impl Fn(&Path) -> Option<String>) -> Option<NonZeroUsize> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
    if controllers.is_empty() {
        return smallest(Path::new("/sys/fs/cgroup"), path, |group| cpu_max(&read(&group.join("cpu.max"))?));
    }
    controllers.split(',').any(|controller| controller == "cpu").then_some(())?;
    // Distributions mount the controller `cpu` alone, or together with `cpuacct`.
    ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"].iter().find_map(|root| {
        smallest(Path::new(root), path, |group| {
            cfs_quota(&read(&group.join("cpu.cfs_quota_us"))?, &read(&group.join("cpu.cfs_period_us"))?)
        })
    })
}

/// Returns the smallest quota from the group up to the root. In a container the path may be the host's, and only the root is
/// readable.
fn smallest(root: &Path, path: &str, quota_of: impl Fn(&Path) -> Option<NonZeroUsize>) -> Option<NonZeroUsize> {
    root.join(path).ancestors().take_while(|group| group.starts_with(root)).filter_map(quota_of).min()
}

/// Parses `cpu.max` of version 2, quota and period in microseconds: `150000 100000`, or `max 100000` for no quota.
fn cpu_max(text: &str) -> Option<NonZeroUsize> {
    let mut words = text.split_whitespace();
    whole_cpus(words.next()?.parse().ok()?, words.next()?.parse().ok()?)
}

/// Parses `cpu.cfs_quota_us` (`-1` for no quota) and `cpu.cfs_period_us` of version 1.
fn cfs_quota(quota: &str, period: &str) -> Option<NonZeroUsize> {
    whole_cpus(quota.trim().parse().ok()?, period.trim().parse().ok()?)
}

fn whole_cpus(quota: u64, period: u64) -> Option<NonZeroUsize> {
    (period > 0).then_some(())?;
    NonZeroUsize::new(usize::try_from(quota.div_ceil(period)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_cpus_of_affinity() {
        for (list, count) in [
            ("0", Some(1)),
            ("0-3", Some(4)),
            ("0-3,8", Some(5)),
            ("2,4-5,7-15", Some(12)),
            ("", None),
            ("3-1", None),
            ("x", None),
        ] {
            let status =
                format!("Name:\theadless-dns\nCpus_allowed:\tf\nCpus_allowed_list:\t{list}\nMems_allowed:\t1\n");
            assert_eq!(cpus_allowed(&status).map(NonZeroUsize::get), count, "{list}");
        }
        assert_eq!(cpus_allowed("Name:\tx\n"), None);
    }

    #[test]
    fn reads_cpu_quotas() {
        let v1 =
            |quota: &'static str| vec![("cpu/pod/cpu.cfs_quota_us", quota), ("cpu/pod/cpu.cfs_period_us", "100000\n")];
        for (groups, files, count) in [
            ("0::/pod\n", vec![("pod/cpu.max", "200000 100000\n")], Some(2)),
            ("0::/pod\n", vec![("pod/cpu.max", "150000 100000\n")], Some(2)),
            ("0::/pod\n", vec![("pod/cpu.max", "10000 100000\n")], Some(1)),
            ("0::/pod\n", vec![("pod/cpu.max", "max 100000\n")], None),
            ("0::/a/b\n", vec![("a/b/cpu.max", "max 100000\n"), ("a/cpu.max", "300000 100000\n")], Some(3)),
            ("0::/a/b\n", vec![("a/b/cpu.max", "400000 100000\n"), ("a/cpu.max", "300000 100000\n")], Some(3)),
            ("0::/../host\n", vec![("cpu.max", "100000 100000\n")], Some(1)),
            ("0::/\n", vec![("cpu.max", "100000 0\n")], None),
            ("0::/\n", vec![("cpu.max", "rubbish")], None),
            ("0::/\n", vec![], None),
            ("4:cpu,cpuacct:/pod\n1:name=systemd:/x\n", v1("250000\n"), Some(3)),
            ("4:cpu,cpuacct:/pod\n", v1("-1\n"), None),
            ("4:cpuset:/pod\n", v1("250000\n"), None),
            ("4:cpuacct,cpu:/pod\n0::/pod\n", v1("250000\n"), Some(3)),
            ("rubbish\n", vec![], None),
        ] {
            let read = |path: &Path| {
                let path = path.strip_prefix("/sys/fs/cgroup").unwrap();
                files.iter().find(|(name, _)| Path::new(name) == path).map(|(_, text)| (*text).to_owned())
            };
            assert_eq!(quota(groups, read).map(NonZeroUsize::get), count, "{groups:?} {files:?}");
        }
    }

    #[test]
    fn counts_workers_of_machine() {
        assert!(default_workers().get() >= 1);
    }
}
