//! Memory for the length of a kernel, used again by the next one.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// A cache line, and a vector of the widest kind.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Bytes that start at a cache line.
pub struct Lines {
    lines: Vec<Line>,
    length: usize,
}

impl Lines {
    /// `length` zeros.
    pub fn new(length: usize) -> Self {
        Self { lines: vec![Line([0; 64]); length.div_ceil(64)], length }
    }
}

impl AsRef<[u8]> for Lines {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: lines are bytes, and there are as many.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.length) }
    }
}

impl AsMut<[u8]> for Lines {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: lines are bytes, and there are as many.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.length) }
    }
}

/// The most buffers that a thread keeps.
const KEPT: usize = 8;

thread_local! {
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Elements of which every pattern of bits is one.
///
/// # Safety
/// That holds, and the alignment is at most that of a cache line.
pub unsafe trait Bits {}

// SAFETY: a plain number.
unsafe impl Bits for f32 {}
// SAFETY: a plain number.
unsafe impl Bits for u8 {}
// SAFETY: a plain number.
unsafe impl Bits for u32 {}
// SAFETY: a plain number.
unsafe impl Bits for i8 {}

/// A buffer that starts at a cache line, with whatever was last written there. It goes back to its thread when dropped.
pub struct Scratch<T: Bits> {
    lines: Vec<Line>,
    length: usize,
    of: PhantomData<T>,
}

impl<T: Bits> Scratch<T> {
    /// A buffer of `length` elements.
    pub fn take(length: usize) -> Self {
        let needed = (length * size_of::<T>()).div_ceil(64);
        if needed == 0 {
            return Self { lines: Vec::new(), length, of: PhantomData };
        }
        let mut lines = FREE.with_borrow_mut(|free| {
            // The smallest that suffices, or else the largest.
            let fits = free.iter().enumerate().filter(|(_, lines)| lines.len() >= needed).min_by_key(|(_, l)| l.len());
            let best = fits.or_else(|| free.iter().enumerate().max_by_key(|(_, lines)| lines.len())).map(|(i, _)| i);
            best.map(|i| free.swap_remove(i)).unwrap_or_default()
        });
        if lines.len() < needed {
            lines = vec![Line([0; 64]); needed];
        }
        Self { lines, length, of: PhantomData }
    }
}

impl<T: Bits> Drop for Scratch<T> {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        if lines.is_empty() {
            return;
        }
        // A thread that ends has no pool any more.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < KEPT {
                free.push(lines);
            }
        });
    }
}

impl<T: Bits> Deref for Scratch<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: there are as many bytes, aligned, initialised, and every pattern of bits is a T.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.length) }
    }
}

impl<T: Bits> DerefMut for Scratch<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.length) }
    }
}

/// A value that starts at a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Aligned<T>(pub T);
