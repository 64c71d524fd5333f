//! What processes cost: CPU time in nanoseconds, and memory.
//!
//! CPU time is read from each process's own clock (`clock_getcpuclockid`). It is the sum over its threads of what
//! `/proc/PID/task/*/schedstat` begins with, to the nanosecond and up to now, and threads that ended are in it: their
//! folders are gone. `/proc/PID/stat` has them too, in ticks of 10 ms. Read next: `sys.rs`.

use std::io;

use super::sys;

/// What these processes ran, all threads, in nanoseconds. Fails where one of them is no process.
pub(crate) fn nanoseconds(processes: &[u32]) -> io::Result<u64> {
    processes.iter().map(|process| about(*process, sys::process_cpu_ns(*process))).sum()
}

/// Resident memory of processes in octets, now and at most so far: `VmRSS` and `VmHWM` of `/proc/PID/status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    pub(crate) most: u64,
}

/// The sum over these processes; pages that they share count for each.
pub(crate) fn memory(processes: &[u32]) -> io::Result<Memory> {
    let mut sum = Memory::default();
    for process in processes {
        let status = about(*process, std::fs::read_to_string(format!("/proc/{process}/status")))?;
        // A process that has ended and that nobody waited for has no memory, and no such lines.
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            kilobytes.unwrap_or(0) * 1024
        };
        sum.resident += field("VmRSS");
        sum.most += field("VmHWM");
    }
    Ok(sum)
}

fn about<T>(process: u32, result: io::Result<T>) -> io::Result<T> {
    result
        .map_err(|error| io::Error::new(error.kind(), format!("process {process}, which was to be measured: {error}")))
}
