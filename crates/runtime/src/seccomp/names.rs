//! Owns the lookup from a system call's name to its number on one architecture, and the architectures themselves.
//! It must not know filters or actions.

use super::table::ROWS;

/// An instruction set with its own call numbers, as the kernel reports it in `seccomp_data.arch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arch {
    /// 64-bit x86 (and, told apart by bit 30 of the number, x32).
    X86_64,
    /// 32-bit x86.
    X86,
    /// 64-bit Arm.
    Aarch64,
    /// 32-bit Arm, EABI.
    Arm,
}

impl Arch {
    /// All that have a table.
    pub const ALL: [Arch; 4] = [Arch::X86_64, Arch::X86, Arch::Aarch64, Arch::Arm];

    /// What this program was built for.
    #[cfg(target_arch = "x86_64")]
    pub const NATIVE: Arch = Arch::X86_64;
    /// What this program was built for.
    #[cfg(target_arch = "aarch64")]
    pub const NATIVE: Arch = Arch::Aarch64;

    /// `AUDIT_ARCH_…` of linux/audit.h.
    #[must_use]
    pub fn audit(self) -> u32 {
        match self {
            Arch::X86_64 => 0xc000_003e,
            Arch::X86 => 0x4000_0003,
            Arch::Aarch64 => 0xc000_00b7,
            Arch::Arm => 0x4000_0028,
        }
    }

    /// Arguments have 32 bits; the kernel clears the rest.
    #[must_use]
    pub fn is_32_bit(self) -> bool {
        matches!(self, Arch::X86 | Arch::Arm)
    }

    /// The number of a call, `None` where the architecture has none of that name.
    #[must_use]
    pub fn number(self, name: &str) -> Option<u32> {
        let index = find(name)?;
        decode(NUMBERS[index][self as usize])
    }

    /// Every call of this architecture, in no order: for tests and listings.
    pub fn calls(self) -> impl Iterator<Item = (&'static str, u32)> {
        (0..COUNT).filter_map(move |index| Some((name_at(index), decode(NUMBERS[index][self as usize])?)))
    }
}

const COUNT: usize = ROWS.len();

/// No such call here.
const ABSENT: u16 = 0xffff;
/// Marks Arm's private calls, 0x0f0000 and up, which do not fit otherwise.
const PRIVATE: u16 = 0xf000;
const PRIVATE_BASE: u32 = 0x000f_0000;

const TEXT_LENGTH: usize = {
    let (mut length, mut row) = (0, 0);
    while row < COUNT {
        length += ROWS[row].0.len();
        row += 1;
    }
    length
};

/// All names behind one another; the arrays below hold no pointers, so nothing of this is relocated or private.
static TEXT: [u8; TEXT_LENGTH] = {
    let mut text = [0; TEXT_LENGTH];
    let (mut at, mut row) = (0, 0);
    while row < COUNT {
        let name = ROWS[row].0.as_bytes();
        let mut i = 0;
        while i < name.len() {
            text[at] = name[i];
            at += 1;
            i += 1;
        }
        row += 1;
    }
    text
};

/// Where each name begins in [`TEXT`]; one more entry than there are names.
static STARTS: [u16; COUNT + 1] = {
    let mut starts = [0; COUNT + 1];
    let mut row = 0;
    while row < COUNT {
        starts[row + 1] = starts[row] + ROWS[row].0.len() as u16;
        row += 1;
    }
    starts
};

static NUMBERS: [[u16; 4]; COUNT] = {
    let mut numbers = [[ABSENT; 4]; COUNT];
    let mut row = 0;
    while row < COUNT {
        let mut arch = 0;
        while arch < 4 {
            numbers[row][arch] = encode(ROWS[row].1[arch]);
            arch += 1;
        }
        row += 1;
    }
    numbers
};

const fn encode(number: i32) -> u16 {
    if number < 0 {
        ABSENT
    } else if number as u32 >= PRIVATE_BASE {
        PRIVATE | (number as u32 - PRIVATE_BASE) as u16
    } else {
        number as u16
    }
}

fn decode(stored: u16) -> Option<u32> {
    match stored {
        ABSENT => None,
        stored if stored & PRIVATE == PRIVATE => Some(PRIVATE_BASE + u32::from(stored & !PRIVATE)),
        stored => Some(u32::from(stored)),
    }
}

fn bytes_at(index: usize) -> &'static [u8] {
    &TEXT[usize::from(STARTS[index])..usize::from(STARTS[index + 1])]
}

fn name_at(index: usize) -> &'static str {
    std::str::from_utf8(bytes_at(index)).unwrap_or_default()
}

fn find(name: &str) -> Option<usize> {
    let (mut low, mut high) = (0, COUNT);
    while low < high {
        let middle = usize::midpoint(low, high);
        match bytes_at(middle).cmp(name.as_bytes()) {
            std::cmp::Ordering::Equal => return Some(middle),
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_found_whole() {
        assert!(ROWS.windows(2).all(|pair| pair[0].0 < pair[1].0), "sorted, no doubles");
        for (name, numbers) in ROWS {
            for arch in Arch::ALL {
                let expected = u32::try_from(numbers[arch as usize]).ok();
                assert_eq!(arch.number(name), expected, "{name} on {arch:?}");
            }
        }
        assert_eq!(Arch::X86_64.number("no_such_call"), None);
        assert_eq!(Arch::X86_64.number(""), None);
    }

    #[test]
    fn known_numbers() {
        for (name, numbers) in [
            ("read", [0, 3, 63, 3]),
            ("openat2", [437, 437, 437, 437]),
            ("clone", [56, 120, 220, 120]),
            ("socket", [41, 359, 198, 281]),
            ("personality", [135, 136, 92, 136]),
            ("statx", [332, 383, 291, 397]),
            ("file_setattr", [469, 469, 469, 469]),
        ] {
            assert_eq!(Arch::ALL.map(|arch| arch.number(name)), numbers.map(Some), "{name}");
        }
        assert_eq!(Arch::Arm.number("set_tls"), Some(0x000f_0005));
        assert_eq!(Arch::Aarch64.number("open"), None);
        assert_eq!(Arch::X86.number("socketcall"), Some(102));
    }

    #[test]
    fn no_two_names_share_a_number() {
        for arch in Arch::ALL {
            let mut numbers: Vec<_> = arch.calls().map(|(name, number)| (number, name)).collect();
            numbers.sort_unstable();
            for pair in numbers.windows(2) {
                // Arm's sync_file_range2 has two names for one number.
                assert!(pair[0].0 != pair[1].0 || pair[0].1 == "arm_sync_file_range", "{arch:?} {pair:?}");
            }
        }
    }
}
