//! Owns classic BPF instructions and a program written back to front. It must not know system calls or profiles.
//!
//! Jumps in classic BPF only go forward and a conditional one reaches 255 instructions. Written from the end, every target
//! is already there when its jump is written, so each distance is known at once and a far target gets a stepping stone.

pub use brig_sys::seccomp::Instruction;

/// Load the word at offset `k` of `struct seccomp_data`.
pub(super) const LOAD: u16 = 0x20;
/// `accumulator &= k`.
pub(super) const AND: u16 = 0x54;
/// Skip `k` instructions.
pub(super) const JUMP: u16 = 0x05;
/// Compare the accumulator with `k`.
pub(super) const JUMP_EQ: u16 = 0x15;
/// Accumulator > k.
pub(super) const JUMP_GT: u16 = 0x25;
/// Accumulator ≥ k.
pub(super) const JUMP_GE: u16 = 0x35;
/// End with `k`.
pub(super) const RETURN: u16 = 0x06;

/// A place in the program, counted from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(usize);

/// The program so far, last instruction first.
#[derive(Default)]
pub(super) struct Backwards {
    reversed: Vec<Instruction>,
    /// Where each value is returned, newest place last.
    returns: Vec<(u32, Label)>,
}

/// How far a conditional jump reaches.
const REACH: usize = 255;

impl Backwards {
    /// How many instructions there are.
    pub(super) fn len(&self) -> usize {
        self.reversed.len()
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Label {
        self.reversed.push(Instruction { code, jt, jf, k });
        Label(self.reversed.len())
    }

    /// An instruction that falls through to `next`.
    pub(super) fn then(&mut self, code: u16, k: u32, next: Label) -> Label {
        self.falls_to(next);
        self.push(code, 0, 0, k)
    }

    /// Returns `value`: an earlier such instruction if it is near enough to be jumped to from here, else a new one.
    pub(super) fn ret(&mut self, value: u32) -> Label {
        let here = self.reversed.len();
        // Half the reach, so that the jump that is about to be written rarely needs a stepping stone.
        if let Some((_, label)) =
            self.returns.iter().rev().find(|(known, label)| *known == value && here - label.0 < REACH / 2)
        {
            return *label;
        }
        self.new_return(value)
    }

    fn new_return(&mut self, value: u32) -> Label {
        let label = self.push(RETURN, 0, 0, value);
        self.returns.push((value, label));
        label
    }

    /// `if accumulator <test> k { yes } else { no }`.
    pub(super) fn branch(&mut self, test: u16, k: u32, yes: Label, no: Label) -> Label {
        if yes == no {
            self.falls_to(yes);
            return Label(self.reversed.len());
        }
        // Making one near may push the other out of reach, hence the margin of one.
        let yes = self.near(yes, REACH - 1);
        let no = self.near(no, REACH);
        let (jt, jf) = (self.distance(yes), self.distance(no));
        self.push(test, jt, jf, k)
    }

    /// Instructions between here and `target`.
    fn distance(&self, target: Label) -> u8 {
        u8::try_from(self.reversed.len() - target.0).expect("targets were brought near")
    }

    /// Makes the next instruction to be written fall through to `target`.
    fn falls_to(&mut self, target: Label) {
        if target.0 != self.reversed.len() {
            self.stone(target);
        }
    }

    fn near(&mut self, target: Label, reach: usize) -> Label {
        if self.reversed.len() - target.0 <= reach { target } else { self.stone(target) }
    }

    /// A stepping stone: a copy if the target only returns, else a jump.
    fn stone(&mut self, target: Label) -> Label {
        let instruction = self.reversed[target.0 - 1];
        if instruction.code == RETURN {
            return self.new_return(instruction.k);
        }
        let distance = u32::try_from(self.reversed.len() - target.0).unwrap_or(u32::MAX);
        self.push(JUMP, 0, 0, distance)
    }

    /// The program in the order in which it runs, beginning at `entry`.
    pub(super) fn finish(mut self, entry: Label) -> Vec<Instruction> {
        self.falls_to(entry);
        self.reversed.reverse();
        self.reversed
    }
}
