//! The sandbox ("pause") image, built in: a static program of a few hundred bytes, wrapped in an OCI image that
//! exists only in memory until it is imported into containerd.
//!
//! The program holds a pod's namespaces, ends on SIGTERM and SIGINT, and reaps the zombies of a shared process
//! namespace. It never installs a handler: it blocks the three signals and waits for them.
//!
//! ```text
//! _start: rt_sigprocmask(SIG_BLOCK, &set, 0, 8)
//! wait:   signal = rt_sigtimedwait(&set, 0, 0, 8)
//!         if signal == SIGINT or signal == SIGTERM: exit(0)
//!         if signal != SIGCHLD: goto wait          (an interrupted call answers -EINTR)
//! reap:   if wait4(-1, 0, WNOHANG, 0) > 0: goto reap
//!         goto wait
//! set:    1<<(SIGINT-1) | 1<<(SIGTERM-1) | 1<<(SIGCHLD-1)
//! ```

use std::collections::BTreeMap;

use bytes::Bytes;
use orkd_cri::Client;
use orkd_cri::containerd::MemoryImage;
use sha2::{Digest, Sha256};

/// The name the image is imported under, and the `sandbox_image` of the generated configuration.
pub const IMAGE: &str = "localhost/orkd/pause:1";

/// x86-64. Offsets are those of the source on the right.
#[rustfmt::skip]
const X86_64: &[u8] = &[
    0xb8, 0x0e, 0x00, 0x00, 0x00,             // 00 _start: mov eax, 14 (rt_sigprocmask)
    0x31, 0xff,                               // 05         xor edi, edi (SIG_BLOCK)
    0x48, 0x8d, 0x35, 0x5a, 0x00, 0x00, 0x00, // 07         lea rsi, [rip+set]
    0x31, 0xd2,                               // 0e         xor edx, edx
    0x41, 0xba, 0x08, 0x00, 0x00, 0x00,       // 10         mov r10d, 8
    0x0f, 0x05,                               // 16         syscall
    0xb8, 0x80, 0x00, 0x00, 0x00,             // 18 wait:   mov eax, 128 (rt_sigtimedwait)
    0x48, 0x8d, 0x3d, 0x44, 0x00, 0x00, 0x00, // 1d         lea rdi, [rip+set]
    0x31, 0xf6,                               // 24         xor esi, esi
    0x31, 0xd2,                               // 26         xor edx, edx
    0x41, 0xba, 0x08, 0x00, 0x00, 0x00,       // 28         mov r10d, 8
    0x0f, 0x05,                               // 2e         syscall
    0x83, 0xf8, 0x02,                         // 30         cmp eax, 2 (SIGINT)
    0x74, 0x28,                               // 33         je done
    0x83, 0xf8, 0x0f,                         // 35         cmp eax, 15 (SIGTERM)
    0x74, 0x23,                               // 38         je done
    0x83, 0xf8, 0x11,                         // 3a         cmp eax, 17 (SIGCHLD)
    0x75, 0xd9,                               // 3d         jne wait
    0xb8, 0x3d, 0x00, 0x00, 0x00,             // 3f reap:   mov eax, 61 (wait4)
    0x48, 0xc7, 0xc7, 0xff, 0xff, 0xff, 0xff, // 44         mov rdi, -1
    0x31, 0xf6,                               // 4b         xor esi, esi
    0xba, 0x01, 0x00, 0x00, 0x00,             // 4d         mov edx, 1 (WNOHANG)
    0x45, 0x31, 0xd2,                         // 52         xor r10d, r10d
    0x0f, 0x05,                               // 55         syscall
    0x85, 0xc0,                               // 57         test eax, eax
    0x7f, 0xe4,                               // 59         jg reap
    0xeb, 0xbb,                               // 5b         jmp wait
    0xb8, 0x3c, 0x00, 0x00, 0x00,             // 5d done:   mov eax, 60 (exit)
    0x31, 0xff,                               // 62         xor edi, edi
    0x0f, 0x05,                               // 64         syscall
    0x66, 0x90,                               // 66         (align 8)
    0x02, 0x40, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, // 68 set: .quad 0x14002
];

/// AArch64, little endian, one word an instruction.
#[rustfmt::skip]
const AARCH64: &[u32] = &[
    0xd280_10e8, // _start: mov x8, #135 (rt_sigprocmask)
    0xd280_0000, //         mov x0, #0 (SIG_BLOCK)
    0x1000_0381, //         adr x1, set
    0xd280_0002, //         mov x2, #0
    0xd280_0103, //         mov x3, #8
    0xd400_0001, //         svc #0
    0xd280_1128, // wait:   mov x8, #137 (rt_sigtimedwait)
    0x1000_02e0, //         adr x0, set
    0xd280_0001, //         mov x1, #0
    0xd280_0002, //         mov x2, #0
    0xd280_0103, //         mov x3, #8
    0xd400_0001, //         svc #0
    0x7100_081f, //         cmp w0, #2 (SIGINT)
    0x5400_01c0, //         b.eq done
    0x7100_3c1f, //         cmp w0, #15 (SIGTERM)
    0x5400_0180, //         b.eq done
    0x7100_441f, //         cmp w0, #17 (SIGCHLD)
    0x54ff_fea1, //         b.ne wait
    0xd280_2088, // reap:   mov x8, #260 (wait4)
    0x9280_0000, //         mov x0, #-1
    0xd280_0001, //         mov x1, #0
    0xd280_0022, //         mov x2, #1 (WNOHANG)
    0xd280_0003, //         mov x3, #0
    0xd400_0001, //         svc #0
    0x7100_001f, //         cmp w0, #0
    0x54ff_ff2c, //         b.gt reap
    0x17ff_ffec, //         b wait
    0xd280_0ba8, // done:   mov x8, #93 (exit)
    0xd280_0000, //         mov x0, #0
    0xd400_0001, //         svc #0
    0x0001_4002, 0, // set: .quad 0x14002
];

/// A processor the program exists for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// x86-64.
    Amd64,
    /// AArch64.
    Arm64,
}

impl Arch {
    /// The processor this program runs on, if it is one of the two.
    pub fn host() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::Amd64),
            "aarch64" => Some(Self::Arm64),
            _ => None,
        }
    }

    /// The name the field uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

/// The executable: an ELF header, one program header, the code.
pub fn elf(arch: Arch) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let (machine, code): (u16, Vec<u8>) = match arch {
        Arch::Amd64 => (62, X86_64.to_vec()),
        Arch::Arm64 => (183, AARCH64.iter().flat_map(|w| w.to_le_bytes()).collect()),
    };
    let size = HEADERS + code.len() as u64;
    let mut out = Vec::with_capacity(size as usize);
    out.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0"); // 64 bit, little endian, version 1
    out.extend_from_slice(&2u16.to_le_bytes()); // executable
    out.extend_from_slice(&machine.to_le_bytes());
    out.extend_from_slice(&1u32.to_le_bytes()); // version
    out.extend_from_slice(&(BASE + HEADERS).to_le_bytes()); // entry
    out.extend_from_slice(&64u64.to_le_bytes()); // program headers
    out.extend_from_slice(&0u64.to_le_bytes()); // no section headers
    out.extend_from_slice(&0u32.to_le_bytes()); // flags
    for half in [64u16, 56, 1, 0, 0, 0] {
        out.extend_from_slice(&half.to_le_bytes()); // header sizes and counts
    }
    out.extend_from_slice(&1u32.to_le_bytes()); // PT_LOAD
    out.extend_from_slice(&5u32.to_le_bytes()); // readable, executable
    for word in [0, BASE, BASE, size, size, 0x1000] {
        out.extend_from_slice(&word.to_le_bytes()); // offset, addresses, sizes, alignment
    }
    out.extend_from_slice(&code);
    out
}

/// A plain tar of regular files and folders: (name, mode, content); a name that ends in `/` is a folder, a content
/// behind a name that starts with `@` is not special.
pub fn tar(files: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, mode, content) in files {
        let mut header = [0u8; 512];
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, &name[..name.len().min(100)]);
        put(100, &format!("{mode:07o}\0"));
        put(108, "0000000\0");
        put(116, "0000000\0");
        put(124, &format!("{:011o}\0", content.len()));
        put(136, "00000000000\0");
        put(148, "        ");
        put(156, if name.ends_with('/') { "5" } else { "0" });
        put(257, "ustar\x0000");
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// `sha256:<hex>`.
pub fn digest(data: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(data)))
}

/// An OCI image of one layer, with the given `config` section.
pub fn image_of(arch: Arch, layer: Vec<u8>, config: &serde_json::Value) -> MemoryImage {
    let config = serde_json::json!({
        "architecture": arch.name(),
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
        "history": [{"created_by": "orkd"}],
    });
    MemoryImage::new(Bytes::from(config.to_string()), Bytes::from(layer), digest)
}

/// The sandbox image.
pub fn image(arch: Arch) -> MemoryImage {
    let program = elf(arch);
    let config = serde_json::json!({"Entrypoint": ["/pause"], "WorkingDir": "/", "User": "65535:65535"});
    image_of(arch, tar(&[("pause", 0o755, &program)]), &config)
}

/// Imports the sandbox image and pins it, so that image garbage collection leaves it alone.
pub async fn import(client: &Client, arch: Arch) -> orkd_cri::Result<()> {
    let labels = BTreeMap::from([
        ("io.cri-containerd.image".to_owned(), "managed".to_owned()),
        ("io.cri-containerd.pinned".to_owned(), "pinned".to_owned()),
    ]);
    client.import_image(&image(arch), &[IMAGE.to_owned()], &labels).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_an_elf_of_its_machine() {
        let check = |arch, machine: [u8; 2], size| {
            let elf = elf(arch);
            assert_eq!(elf.get(..4), Some(b"\x7fELF".as_slice()));
            assert_eq!(elf.get(18..20), Some(machine.as_slice()));
            assert_eq!(elf.len(), size);
        };
        check(Arch::Amd64, [62, 0], 120 + 112);
        check(Arch::Arm64, [183, 0], 120 + 128);
    }

    #[test]
    fn tar_blocks_are_whole_and_summed() {
        let tar = tar(&[("a", 0o644, b"hi"), ("d/", 0o755, b"")]);
        assert_eq!(tar.len() % 512, 0);
        assert_eq!(tar.get(512..514), Some(b"hi".as_slice()));
        assert_eq!(tar.get(1024 + 156), Some(&b'5'));
    }

    /// Runs the program on a host it is made for: it must end with 0 on SIGTERM.
    #[test]
    fn the_program_ends_on_sigterm() -> std::io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let Some(arch) = Arch::host() else { return Ok(()) };
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("pause");
        std::fs::write(&path, elf(arch))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        let mut child = std::process::Command::new(&path).spawn()?;
        // The signal must not come before the program waits for it.
        let at = format!("/proc/{}/syscall", child.id());
        let number = if arch == Arch::Amd64 { "128 " } else { "137 " };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while !std::fs::read_to_string(&at).is_ok_and(|s| s.starts_with(number)) {
            if std::time::Instant::now() > deadline {
                child.kill()?;
                panic!("the program never waited for a signal");
            }
            std::thread::yield_now();
        }
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap_or_default());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        assert_eq!(child.wait()?.code(), Some(0));
        Ok(())
    }
}
