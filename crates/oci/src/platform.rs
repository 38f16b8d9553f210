//! Platforms: how they are written, which one this machine is, and which image of several fits one.
//! Must not look anything up beyond the CPU that this runs on.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::null_default;

/// An operating system and a CPU, in Go's names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`, `arm`, `386`, …
    #[serde(default, deserialize_with = "null_default")]
    pub architecture: String,
    /// `linux`, `windows`, …
    #[serde(default, deserialize_with = "null_default")]
    pub os: String,
    /// Only used by Windows images.
    #[serde(
        rename = "os.version",
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    /// Only used by Windows images.
    #[serde(rename = "os.features", default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// `v7`, `v8`, `v3`, …; empty for the architecture's usual one.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// A platform that could not be understood; the text is for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlatformError(String);

impl fmt::Display for PlatformError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PlatformError {}

impl Platform {
    /// The platform of this machine, in normal form.
    pub fn host() -> Platform {
        Platform::new("linux", std::env::consts::ARCH, "")
    }

    fn new(os: &str, architecture: &str, variant: &str) -> Platform {
        let (architecture, variant) = (architecture.to_owned(), variant.to_owned());
        Platform { architecture, os: os.to_owned(), variant, ..Platform::default() }.normalized()
    }

    /// Parses `os`, `arch`, `os/arch` or `os/arch/variant`, as `--platform` takes it. What is left out is the host's.
    pub fn parse(text: &str) -> Result<Platform, PlatformError> {
        let is_word = |part: &str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if parts.len() > 3 || !parts.iter().all(|part| is_word(part)) {
            return Err(PlatformError(format!(
                "\"{text}\" is an invalid platform: write it as os/arch or os/arch/variant, such as linux/arm64"
            )));
        }
        let host = Platform::host();
        match parts[..] {
            [os, architecture, variant] => Ok(Platform::new(os, architecture, variant)),
            [os, architecture] => Ok(Platform::new(os, architecture, "")),
            [one] if is_os(one) => Ok(Platform::new(one, &host.architecture, "")),
            [one] if is_architecture(one) => Ok(Platform::new(&host.os, one, "")),
            _ => Err(PlatformError(format!("\"{text}\" is an unknown operating system or architecture"))),
        }
    }

    /// The same platform in the one spelling that is compared: lower case, Go's names, usual variants left out.
    pub fn normalized(&self) -> Platform {
        let os = match self.os.to_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            os => os.to_owned(),
        };
        let architecture = self.architecture.to_lowercase();
        let variant = self.variant.to_lowercase();
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("i386" | "i486" | "i586" | "i686" | "x86" | "386", _) => ("386", ""),
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
            ("aarch64" | "arm64", variant) => ("arm64", variant),
            ("armhf", _) => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("arm", "" | "7") => ("arm", "v7"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "6") => ("arm", "v6"),
            ("arm", "8") => ("arm", "v8"),
            (architecture, variant) => (architecture, variant),
        };
        Platform { os, architecture: architecture.to_owned(), variant: variant.to_owned(), ..self.clone() }
    }

    /// How well an image for `image` runs where `self` is wanted: 0 is exact, larger is worse, `None` is not at all.
    pub fn rank(&self, image: &Platform) -> Option<usize> {
        let (wanted, image) = (self.normalized(), image.normalized());
        if wanted.os != image.os {
            return None;
        }
        runnable(&wanted.architecture, &wanted.variant)
            .iter()
            .position(|(architecture, variant)| *architecture == image.architecture && *variant == image.variant)
    }

    /// The index of the best of `images` for `self`; the first one when two are equally good.
    /// An image without a platform fits nothing. When `self` is this machine in its plain form, images
    /// for a newer level of its CPU are taken if there is no other.
    pub fn select<'a>(&self, images: impl Iterator<Item = Option<&'a Platform>> + Clone) -> Option<usize> {
        let best = |wanted: &Platform| {
            images
                .clone()
                .enumerate()
                .filter_map(|(index, image)| Some((wanted.rank(image?)?, index)))
                .min()
                .map(|(_, index)| index)
        };
        best(self).or_else(|| {
            let level = host_level()?;
            let newer = Platform { variant: level.to_owned(), ..Platform::host() };
            (self.normalized() == Platform::host()).then(|| best(&newer)).flatten()
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

/// What runs on a CPU, best first, as containerd's `platforms.Only` has it.
fn runnable(architecture: &str, variant: &str) -> Vec<(String, String)> {
    let level = |prefix: &str, text: &str| text.strip_prefix(prefix).and_then(|digit| digit.parse::<u8>().ok());
    let mut list = vec![(architecture.to_owned(), variant.to_owned())];
    let mut add = |architecture: &str, variant: String| list.push((architecture.to_owned(), variant));
    match architecture {
        "amd64" => {
            let from = level("v", variant).filter(|level| (2..=9).contains(level)).unwrap_or(1);
            (2..from).rev().for_each(|level| add("amd64", format!("v{level}")));
            if from > 1 {
                add("amd64", String::new());
            }
            add("386", String::new());
        }
        "arm64" => {
            if !variant.is_empty() {
                add("arm64", String::new());
            }
            (5..=8).rev().for_each(|level| add("arm", format!("v{level}")));
        }
        "arm" => {
            let from = level("v", variant).filter(|level| (6..=8).contains(level)).unwrap_or(5);
            (5..from).rev().for_each(|level| add("arm", format!("v{level}")));
        }
        _ => {}
    }
    list
}

/// The x86-64 level of this CPU beyond the first, if any.
#[cfg(target_arch = "x86_64")]
fn host_level() -> Option<&'static str> {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("sse3") && has!("ssse3") && has!("sse4.1") && has!("sse4.2") && has!("popcnt") && has!("cmpxchg16b");
    let v3 = v2
        && has!("avx")
        && has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("f16c")
        && has!("fma")
        && has!("lzcnt")
        && has!("movbe");
    let v4 = v3 && has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
    match (v2, v3, v4) {
        (_, _, true) => Some("v4"),
        (_, true, _) => Some("v3"),
        (true, _, _) => Some("v2"),
        _ => None,
    }
}

/// Other CPUs have no levels that images name.
#[cfg(not(target_arch = "x86_64"))]
fn host_level() -> Option<&'static str> {
    None
}

fn is_os(text: &str) -> bool {
    let known = ["linux", "windows", "darwin", "macos", "freebsd", "netbsd", "openbsd", "solaris", "illumos", "wasip1"];
    known.contains(&text.to_lowercase().as_str())
}

fn is_architecture(text: &str) -> bool {
    let known = [
        "386", "amd64", "arm", "arm64", "armhf", "armel", "i386", "x86_64", "x86-64", "aarch64", "ppc64", "ppc64le",
        "mips", "mipsle", "mips64", "mips64le", "riscv64", "s390x", "loong64", "wasm",
    ];
    known.contains(&text.to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        Platform::parse(text).unwrap()
    }

    #[test]
    fn spellings_meet() {
        for (text, normal) in [
            ("linux/x86_64", "linux/amd64"),
            ("LINUX/amd64/v1", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/i686", "linux/386"),
            ("linux/amd64/v3", "linux/amd64/v3"),
        ] {
            assert_eq!(platform(text).to_string(), normal);
        }
        assert_eq!(platform("arm64").to_string(), "linux/arm64");
        assert_eq!(platform("linux"), Platform::host());
        for text in ["", "/", "linux/", "a/b/c/d", "linux/amd 64", "nonsense"] {
            assert!(Platform::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_best_fit_wins_and_the_first_of_equals() {
        let images = [
            "windows/amd64",
            "linux/386",
            "linux/amd64/v2",
            "linux/amd64",
            "linux/amd64",
            "linux/arm/v6",
            "linux/arm64",
        ];
        let images = images.map(platform);
        let select = |wanted: &str| platform(wanted).select(images.iter().map(Some));
        assert_eq!(select("linux/amd64"), Some(3));
        assert_eq!(select("linux/amd64/v3"), Some(2));
        assert_eq!(select("linux/arm64/v8"), Some(6));
        assert_eq!(select("linux/arm/v7"), Some(5));
        assert_eq!(select("linux/arm/v5"), None);
        assert_eq!(select("linux/s390x"), None);
        assert_eq!(platform("linux/amd64").select([None, None].into_iter()), None);
        let attestation = Platform { os: "unknown".into(), architecture: "unknown".into(), ..Platform::default() };
        assert_eq!(platform("linux/amd64").select([Some(&attestation)].into_iter()), None);
    }
}
