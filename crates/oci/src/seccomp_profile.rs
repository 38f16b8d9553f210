//! Docker's seccomp profile format, and what it comes to for one container: an OCI seccomp object.
//!
//! Owns: the format (moby `profiles/seccomp`), its includes and excludes, and the embedded default profile.
//! Must not: compile filters (the runtime does) or ask the machine anything; architecture and kernel are arguments.

use std::path::PathBuf;
use std::sync::OnceLock;

use serde::Deserialize;

use crate::runtime::{Seccomp, SeccompArg, SeccompRule};

/// moby's default profile; origin and licence are in `data/README.md`.
const DOCKER_DEFAULT: &str = include_str!("../data/seccomp-docker-default.json");

/// Larger profiles are refused: the kernel's limit of 4,096 instructions is reached long before.
const MAX_BYTES: usize = 4 << 20;

/// Why a profile text cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileError(String);

impl std::fmt::Display for ProfileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ProfileError {}

/// A kernel version as far as profiles compare it: major, minor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion(pub u32, pub u32);

impl KernelVersion {
    /// Reads the beginning of a release such as `6.18.44-cloud`.
    #[must_use]
    pub fn parse(release: &str) -> Option<KernelVersion> {
        let (major, rest) = release.split_once('.')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        Some(KernelVersion(major.parse().ok()?, rest[..digits].parse().ok()?))
    }
}

/// What a profile's conditions are compared with.
#[derive(Debug, Clone, Copy)]
pub struct Conditions<'a> {
    /// The container's bounding set, full names.
    pub capabilities: &'a [&'a str],
    /// The machine's architecture as Go names it (`amd64`, `arm64`); [`NATIVE_ARCH`] is this program's.
    pub arch: &'a str,
    /// The running kernel.
    pub kernel: KernelVersion,
}

/// The architecture that this program was built for, as Go names it.
pub const NATIVE_ARCH: &str = match std::env::consts::ARCH.as_bytes() {
    b"x86_64" => "amd64",
    b"aarch64" => "arm64",
    _ => std::env::consts::ARCH,
};

/// A parsed profile, to be resolved for one container after the other.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    #[serde(default)]
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMap>>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    #[serde(default)]
    listener_path: PathBuf,
    #[serde(default)]
    listener_metadata: String,
    #[serde(default)]
    syscalls: Option<Vec<Entry>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    name: String,
    #[serde(default)]
    names: Option<Vec<String>>,
    #[serde(default)]
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Option<SeccompArg>>>,
    includes: Option<Filter>,
    excludes: Option<Filter>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

impl Profile {
    /// Docker's default. Parsed once per process.
    ///
    /// # Panics
    /// Never: that the embedded text is a valid profile is tested.
    #[must_use]
    pub fn docker_default() -> &'static Profile {
        static PARSED: OnceLock<Profile> = OnceLock::new();
        PARSED.get_or_init(|| Profile::parse(DOCKER_DEFAULT).expect("the embedded profile is valid"))
    }

    /// Reads a profile and checks what does not depend on the container.
    ///
    /// # Errors
    /// Text that is not such JSON, is too large, or contradicts itself. Unknown actions and operators are left to the
    /// runtime's compiler, which knows them.
    pub fn parse(text: &str) -> Result<Profile, ProfileError> {
        let fail = |message: String| Err(ProfileError(message));
        if text.len() > MAX_BYTES {
            return fail(format!("seccomp profile is {} bytes long; at most {MAX_BYTES} are read", text.len()));
        }
        let profile: Profile = match serde_json::from_str(text) {
            Ok(profile) => profile,
            Err(error) => return fail(format!("decoding seccomp profile failed: {error}")),
        };
        let syscalls = profile.syscalls.as_deref().unwrap_or_default();
        if profile.default_action.is_empty() {
            return fail("seccomp profile has no defaultAction".to_owned());
        }
        if some(profile.architectures.as_ref()) && some(profile.arch_map.as_ref()) {
            return fail("both 'architectures' and 'archMap' are specified in the seccomp profile, use either 'architectures' or 'archMap'".to_owned());
        }
        for (number, entry) in syscalls.iter().enumerate() {
            match (entry.name.is_empty(), entry.names.as_deref().unwrap_or_default().is_empty()) {
                (false, false) => {
                    return fail(
                        "both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'"
                            .to_owned(),
                    );
                }
                (true, true) => {
                    return fail(format!("entry {number} of 'syscalls' in the seccomp profile names no system call"));
                }
                _ => {}
            }
            for filter in [&entry.includes, &entry.excludes].into_iter().flatten() {
                if let Some(kernel) = filter.min_kernel.as_deref().filter(|kernel| min_kernel(kernel).is_none()) {
                    return fail(format!(
                        "entry {number} of 'syscalls' in the seccomp profile: minKernel {kernel:?} is not of the form \"4.8\""
                    ));
                }
            }
        }
        Ok(profile)
    }

    /// What applies to one container.
    #[must_use]
    pub fn resolve(&self, conditions: &Conditions<'_>) -> Seccomp {
        Seccomp {
            default_action: self.default_action.clone(),
            default_errno_ret: self.default_errno_ret,
            architectures: self.architectures(conditions.arch),
            flags: self.flags.clone(),
            listener_path: Some(self.listener_path.clone()).filter(|path| !path.as_os_str().is_empty()),
            listener_metadata: self.listener_metadata.clone(),
            syscalls: self
                .syscalls
                .iter()
                .flatten()
                .filter(|entry| entry.applies(conditions))
                .map(Entry::rule)
                .collect(),
        }
    }

    fn architectures(&self, arch: &str) -> Vec<String> {
        if let Some(list) = self.architectures.as_ref().filter(|list| !list.is_empty()) {
            return list.clone();
        }
        let Some(native) = seccomp_arch(arch) else {
            return Vec::new();
        };
        let Some(map) = self.arch_map.iter().flatten().find(|map| map.architecture == native) else {
            return Vec::new();
        };
        std::iter::once(&map.architecture).chain(map.sub_architectures.iter().flatten()).cloned().collect()
    }
}

impl Entry {
    /// Any match in `excludes` drops the entry; everything in `includes` must match.
    fn applies(&self, conditions: &Conditions<'_>) -> bool {
        let has = |cap: &String| conditions.capabilities.contains(&cap.as_str());
        let here = |arches: &Vec<String>| arches.iter().any(|arch| arch == conditions.arch);
        let reached = |kernel: &String| min_kernel(kernel).is_some_and(|minimum| conditions.kernel >= minimum);
        if let Some(excludes) = &self.excludes {
            let hit = excludes.arches.as_ref().is_some_and(here)
                || excludes.caps.iter().flatten().any(has)
                || excludes.min_kernel.as_ref().is_some_and(reached);
            if hit {
                return false;
            }
        }
        self.includes.as_ref().is_none_or(|includes| {
            includes.arches.as_ref().is_none_or(|arches| arches.is_empty() || here(arches))
                && includes.caps.iter().flatten().all(has)
                && includes.min_kernel.as_ref().is_none_or(reached)
        })
    }

    fn rule(&self) -> SeccompRule {
        let names = match &self.names {
            Some(names) if !names.is_empty() => names.clone(),
            _ => vec![self.name.clone()],
        };
        let args = self.args.iter().flatten().flatten().cloned().collect();
        SeccompRule { names, action: self.action.clone(), errno_ret: self.errno_ret, args }
    }
}

fn some<T>(list: Option<&Vec<T>>) -> bool {
    list.is_some_and(|list| !list.is_empty())
}

/// Exactly "major.minor", as moby wants it.
fn min_kernel(text: &str) -> Option<KernelVersion> {
    let (major, minor) = text.split_once('.')?;
    let number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok())?;
    let version = KernelVersion(number(major)?, number(minor)?);
    (version != KernelVersion(0, 0)).then_some(version)
}

fn seccomp_arch(arch: &str) -> Option<&'static str> {
    Some(match arch {
        "amd64" => "SCMP_ARCH_X86_64",
        "x86" => "SCMP_ARCH_X86",
        "x32" => "SCMP_ARCH_X32",
        "arm64" => "SCMP_ARCH_AARCH64",
        "arm" => "SCMP_ARCH_ARM",
        "ppc64le" => "SCMP_ARCH_PPC64LE",
        "s390x" => "SCMP_ARCH_S390X",
        "riscv64" => "SCMP_ARCH_RISCV64",
        "loong64" => "SCMP_ARCH_LOONGARCH64",
        _ => return None,
    })
}

/// Docker's default profile for one container.
#[must_use]
pub fn docker_default(capabilities: &[&str], arch: &str, kernel: KernelVersion) -> Seccomp {
    Profile::docker_default().resolve(&Conditions { capabilities, arch, kernel })
}

/// A profile of the user's for one container.
///
/// # Errors
/// As [`Profile::parse`].
pub fn from_docker_json(
    text: &str,
    capabilities: &[&str],
    arch: &str,
    kernel: KernelVersion,
) -> Result<Seccomp, ProfileError> {
    Ok(Profile::parse(text)?.resolve(&Conditions { capabilities, arch, kernel }))
}

#[cfg(test)]
#[path = "seccomp_profile_tests.rs"]
mod tests;
