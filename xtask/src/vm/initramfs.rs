//! The guest's whole system: busybox, the payload, its libraries, and an init script.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Payload;
use crate::process;
use crate::toolchain;

/// Makes `folder/initramfs.cpio` and returns its path.
pub(super) fn pack(folder: &Path, payload: &Payload, exit_mark: &str) -> Result<PathBuf> {
    let tree = folder.join("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    for directory in ["bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr/bin"] {
        fs::create_dir_all(tree.join(directory))?;
    }
    symlink("bin", tree.join("sbin"))?;
    fs::write(
        tree.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    )?;
    fs::write(tree.join("etc/group"), "root:x:0:\nadm:x:4:\nnogroup:x:65534:\n")?;
    fs::write(tree.join("etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n")?;

    let busybox = toolchain::find_program("busybox").context("no busybox")?;
    for program in [&busybox].into_iter().chain(&payload.programs) {
        add_program(&tree, program)?;
    }
    let init = tree.join("init");
    fs::write(&init, script(&payload.command, exit_mark))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;

    let archive = folder.join("initramfs.cpio");
    let names = names_below(&tree)?;
    let mut cpio = Command::new("cpio")
        .args(["--create", "--format=newc", "--owner=0:0", "--quiet"])
        .current_dir(&tree)
        .stdin(Stdio::piped())
        .stdout(File::create(&archive)?)
        .spawn()
        .context("cannot run cpio")?;
    if let Some(mut stdin) = cpio.stdin.take() {
        std::io::Write::write_all(&mut stdin, names.as_bytes())?;
    }
    if !cpio.wait()?.success() {
        bail!("cpio could not pack {}", tree.display());
    }
    Ok(archive)
}

/// Copies a program, without its debug information where `strip` is at hand, and the libraries it is linked with.
fn add_program(tree: &Path, program: &Path) -> Result<()> {
    let name = program.file_name().with_context(|| format!("{} is no program", program.display()))?;
    let copy = tree.join("bin").join(name);
    let stripped = Command::new("strip").arg("-o").arg(&copy).arg(program).stderr(Stdio::null()).status();
    if !stripped.is_ok_and(|status| status.success()) {
        fs::copy(program, &copy).with_context(|| format!("cannot copy {}", program.display()))?;
    }
    // ldd fails for static programs.
    let libraries = process::capture(Command::new("ldd").arg(program)).unwrap_or_default();
    for library in libraries.lines().filter_map(library_path) {
        let copy = tree.join(library.strip_prefix("/").unwrap_or(&library));
        if copy.exists() {
            continue;
        }
        fs::create_dir_all(copy.parent().unwrap_or(tree))?;
        fs::copy(&library, &copy).with_context(|| format!("cannot copy {}", library.display()))?;
    }
    Ok(())
}

/// `libc.so.6 => /lib/libc.so.6 (0x7f..)` or `/lib64/ld-linux-x86-64.so.2 (0x7f..)`.
fn library_path(line: &str) -> Option<PathBuf> {
    let line = line.split_once(" (").map_or(line, |(before, _)| before);
    let path = line.split_once(" => ").map_or(line, |(_, path)| path).trim();
    path.starts_with('/').then(|| PathBuf::from(path))
}

fn script(command: &[String], exit_mark: &str) -> String {
    let command =
        command.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect::<Vec<_>>().join(" ");
    format!(
        "#!/bin/busybox sh
export PATH=/bin HOME=/root
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
ulimit -n 65536
echo \"kernel $(uname -r)\"
{command} </dev/null 2>&1
echo \"{exit_mark}$?\"
reboot -f
"
    )
}

/// All names below a folder, one a line, each folder before what it holds.
fn names_below(tree: &Path) -> Result<String> {
    let mut names = String::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(tree.join(&folder))? {
            let entry = entry?;
            let name = folder.join(entry.file_name());
            writeln!(names, "{}", name.display())?;
            if entry.file_type()?.is_dir() {
                folders.push(name);
            }
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{library_path, script};

    #[test]
    fn libraries_are_read_from_ldd() {
        let found = |line| library_path(line);
        assert_eq!(found("\tlibc.so.6 => /lib/libc.so.6 (0x00007f)"), Some(PathBuf::from("/lib/libc.so.6")));
        assert_eq!(
            found("\t/lib64/ld-linux-x86-64.so.2 (0x7f)"),
            Some(PathBuf::from("/lib64/ld-linux-x86-64.so.2"))
        );
        assert_eq!(found("\tlinux-vdso.so.1 (0x00007ffe)"), None);
        assert_eq!(found("\tlibmissing.so => not found"), None);
    }

    #[test]
    fn words_stay_words_in_the_guest() {
        let script = script(&["echo".into(), "it's; two".into()], "@@");
        assert!(script.contains(r"'echo' 'it'\''s; two' </dev/null"), "{script}");
    }
}
