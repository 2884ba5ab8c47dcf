//! What a process gives up before it runs model-written SQL.
//!
//! SQLite's own walls (see [`super::database`]) keep SQL from anything but reading. These stand behind them, for the
//! day on which SQLite has a fault: the process cannot write files, start programs, open connections, or grow.

use std::io;

/// Address space, in bytes: SQLite's heap ([`super::database`]), a few results, and the program itself.
#[cfg(unix)]
const ADDRESS_SPACE_BYTES: u64 = 3 << 30;

/// Open files: the databases of [`super::row_judge`] and a few more.
#[cfg(unix)]
const OPEN_FILES: u64 = 128;

/// Confines this process, for good.
///
/// # Errors
/// When the system refuses.
pub fn confine() -> io::Result<()> {
    #[cfg(unix)]
    limit_resources()?;
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, set_parent_process_death_signal};
        set_parent_process_death_signal(Some(Signal::KILL))?;
        rustix::thread::set_no_new_privs(true)?;
    }
    #[cfg(all(
        target_os = "linux",
        any(target_arch = "x86_64", target_arch = "aarch64")
    ))]
    system_calls::refuse().map_err(io::Error::other)?;
    Ok(())
}

#[cfg(unix)]
fn limit_resources() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    // No file grows, and a crash leaves no image of the memory behind.
    let mut limits = vec![(Resource::Fsize, 0), (Resource::Core, 0)];
    limits.push((Resource::Nofile, OPEN_FILES));
    // Elsewhere the limit does not exist or counts other things.
    #[cfg(target_os = "linux")]
    limits.push((Resource::As, ADDRESS_SPACE_BYTES));
    for (resource, limit) in limits {
        // A limit that is lower already cannot be raised, and need not be.
        let limit = getrlimit(resource)
            .maximum
            .map_or(limit, |maximum| limit.min(maximum));
        let both = Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        };
        setrlimit(resource, both)?;
    }
    Ok(())
}

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod system_calls {
    use std::collections::BTreeMap;

    use seccompiler::{
        BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
        SeccompCondition, SeccompFilter, SeccompRule, TargetArch, apply_filter_all_threads,
    };

    /// Calls that a process that only reads files and computes has no use for.
    const REFUSED: &[i64] = &[
        // Programs and processes.
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_clone,
        libc::SYS_clone3,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_open,
        // The network.
        libc::SYS_socket,
        libc::SYS_socketpair,
        libc::SYS_connect,
        libc::SYS_bind,
        // Files and folders made, renamed, removed or changed.
        libc::SYS_openat2,
        libc::SYS_mkdirat,
        libc::SYS_mknodat,
        libc::SYS_unlinkat,
        libc::SYS_linkat,
        libc::SYS_symlinkat,
        libc::SYS_renameat2,
        libc::SYS_truncate,
        libc::SYS_ftruncate,
        libc::SYS_fallocate,
        libc::SYS_fchmod,
        libc::SYS_fchmodat,
        libc::SYS_fchown,
        libc::SYS_fchownat,
        libc::SYS_utimensat,
        libc::SYS_setxattr,
        libc::SYS_memfd_create,
        // The system, and ways around this filter.
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_chroot,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_keyctl,
        libc::SYS_io_uring_setup,
        #[cfg(target_arch = "aarch64")]
        libc::SYS_renameat,
    ];

    /// The older forms, which this architecture has beside those above.
    #[cfg(target_arch = "x86_64")]
    const REFUSED_OLDER: &[i64] = &[
        libc::SYS_fork,
        libc::SYS_vfork,
        libc::SYS_creat,
        libc::SYS_mkdir,
        libc::SYS_rmdir,
        libc::SYS_mknod,
        libc::SYS_unlink,
        libc::SYS_link,
        libc::SYS_symlink,
        libc::SYS_rename,
        libc::SYS_renameat,
        libc::SYS_chmod,
        libc::SYS_chown,
        libc::SYS_lchown,
    ];
    #[cfg(not(target_arch = "x86_64"))]
    const REFUSED_OLDER: &[i64] = &[];

    /// From now on these calls, and opening a file for writing, fail with `EPERM`.
    pub fn refuse() -> Result<(), Error> {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = REFUSED
            .iter()
            .chain(REFUSED_OLDER)
            .map(|&call| (call, Vec::new())) // no conditions: always
            .collect();
        rules.insert(libc::SYS_openat, opens_for_writing(2)?);
        #[cfg(target_arch = "x86_64")]
        rules.insert(libc::SYS_open, opens_for_writing(1)?);
        let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
        let filter = SeccompFilter::new(
            rules,
            SeccompAction::Allow,
            SeccompAction::Errno(libc::EPERM as u32),
            architecture,
        )?;
        apply_filter_all_threads(&BpfProgram::try_from(filter)?)
    }

    /// A rule for each flag that changes a file, `flags` being the index of that argument.
    fn opens_for_writing(flags: u8) -> Result<Vec<SeccompRule>, BackendError> {
        let with = |flag: libc::c_int| {
            let flag = flag as u64;
            let is_set = SeccompCmpOp::MaskedEq(flag);
            let condition = SeccompCondition::new(flags, SeccompCmpArgLen::Dword, is_set, flag)?;
            SeccompRule::new(vec![condition])
        };
        [libc::O_WRONLY, libc::O_RDWR, libc::O_CREAT, libc::O_TRUNC]
            .into_iter()
            .map(with)
            .collect()
    }
}

#[cfg(all(
    test,
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod tests {
    use std::fs::{self, File, OpenOptions};
    use std::net::UdpSocket;
    use std::process::Command;

    use super::*;

    /// Confining is for good, so another process of this test program does it.
    #[test]
    fn a_confined_process_can_read_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "as it was").unwrap();
        let status = Command::new(std::env::current_exe().unwrap())
            .args([
                "sql::confine::tests::in_a_confined_process",
                "--exact",
                "--ignored",
            ])
            .current_dir(folder.path())
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&status.stdout);
        assert!(status.status.success(), "{output}");
        assert!(output.contains("1 passed"), "{output}");
        assert_eq!(fs::read(folder.path().join("file")).unwrap(), b"as it was");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    #[ignore = "confines its process; the test above runs it in one of its own"]
    fn in_a_confined_process() {
        confine().unwrap();
        assert_eq!(fs::read("file").unwrap(), b"as it was");
        let refused = |what: &str, result: io::Result<()>| {
            let kind = result.map_err(|error| error.kind());
            assert_eq!(kind, Err(io::ErrorKind::PermissionDenied), "{what}");
        };
        refused("create", File::create("new").map(drop));
        refused(
            "append",
            OpenOptions::new().append(true).open("file").map(drop),
        );
        refused(
            "truncate",
            OpenOptions::new()
                .write(true)
                .truncate(true)
                .open("file")
                .map(drop),
        );
        refused("remove", fs::remove_file("file"));
        refused("rename", fs::rename("file", "other"));
        refused("link", fs::hard_link("file", "other"));
        refused("folder", fs::create_dir("new"));
        refused("program", Command::new("/bin/true").status().map(drop));
        refused("network", UdpSocket::bind("127.0.0.1:0").map(drop));
        let mut memory: Vec<u8> = Vec::new();
        assert!(memory.try_reserve_exact(4 << 30).is_err());
        assert!(memory.try_reserve_exact(1 << 20).is_ok());
    }
}
