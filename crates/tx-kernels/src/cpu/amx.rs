//! Products with bf16 weights by the tiles of AMX, which Intel's server processors have since 2023.
//!
//! A tile is 16 lines of 64 bytes. One instruction multiplies 16 columns of a weight, read where they lie, with 16 rows of `x`,
//! which are turned for it, so that a line is a pair of steps of each row. The result comes out as that of `tile.rs`, with
//! the rows in the lanes: `[columns][rows]`. Rows are rounded, and numbers are added, as in `pairs.rs`.
//!
//! Reference: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, "Programming with Intel AMX".

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub use linux::{available, multiply_zeros, product};

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod linux {
    use std::arch::asm;
    use std::arch::x86_64::__cpuid_count;
    use std::ops::Range;
    use std::sync::LazyLock;

    use rayon::prelude::*;

    use crate::Pointwise;
    use crate::cpu::product::{Factor, L2_BYTES, Weight, finish};
    use crate::cpu::threads::parallel_ranges_with;
    use crate::cpu::{Aligned, Scratch, pairs, panels};

    /// Lines of a tile, and the pairs of elements, or sums, of a line.
    const LINES: usize = 16;

    /// Columns of a block, and rows of a panel: two tiles.
    const TWO: usize = 2 * LINES;

    /// Whether there are tiles that multiply bf16. Asks the kernel for them.
    pub fn available() -> bool {
        const TILES_AND_BF16: u32 = 1 << 24 | 1 << 22;
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        static AVAILABLE: LazyLock<bool> = LazyLock::new(|| {
            pairs::available()
                && __cpuid_count(7, 0).edx & TILES_AND_BF16 == TILES_AND_BF16
                // SAFETY: this lets all threads of the process use tiles, and changes nothing else.
                && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) } == 0
        });
        *AVAILABLE
    }

    /// The products of rows with bf16 factors.
    ///
    /// # Safety
    /// Tiles are [`available`]; every factor [is pairs](pairs::pairs_of), and its `out` is valid for `rows · columns` elements
    /// that nothing else refers to.
    pub unsafe fn product(x: &[f32], steps: usize, factors: &[Factor<'_>], act: Option<Pointwise>) {
        let of = |(i, f): (usize, &Factor<'_>)| (0..f.columns).step_by(TWO).map(move |c| (i, c)).collect::<Vec<_>>();
        let blocks: Vec<(usize, usize)> = factors.iter().enumerate().flat_map(of).collect();
        let count = x.len().div_ceil(TWO * steps);
        // One panel is turned by each thread, for its own cache.
        let shared = (count > 1).then(|| Turned::new(x, steps));
        let group = (L2_BYTES / (TWO * padded(steps) * 4)).clamp(1, count);
        let own = || shared.is_none().then(|| Turned::new(x, steps));
        parallel_ranges_with(count.div_ceil(group) * blocks.len(), 1, own, |own, tasks| {
            let Some(x) = shared.as_ref().or(own.as_ref()) else { return };
            // SAFETY: as above.
            let _tiles = unsafe { Tiles::new() };
            for task in tasks {
                let first = task / blocks.len() * group;
                let (factor, column) = blocks[task % blocks.len()];
                let panels = first..count.min(first + group);
                // SAFETY: as above; each task has its own rows and columns.
                unsafe { Block { x, panels, factor: &factors[factor], column, act }.run() };
            }
        });
    }

    /// Pairs of so many steps, with those that fill the last tile.
    fn padded(steps: usize) -> usize {
        steps.div_ceil(2 * LINES) * LINES
    }

    /// Rows in bf16, in panels `[pairs][rows]` of two tiles of rows; the last one may be of one.
    struct Turned {
        panels: Scratch<f32>,
        rows: usize,
        steps: usize,
    }

    impl Turned {
        fn new(x: &[f32], steps: usize) -> Self {
            let rows = x.len() / steps;
            let pairs = padded(steps);
            let mut panels = Scratch::<f32>::take(rows.next_multiple_of(LINES) * pairs);
            let turn = |(x, to): (&[f32], &mut [f32])| {
                let rounded = pairs::Rows::new(x, steps);
                let lines: Vec<&[f32]> = (0..x.len() / steps).map(|row| rounded.as_numbers(row)).collect();
                panels::pack(&lines, pairs, to.len() / pairs, to);
            };
            let (x, to) = (x.par_chunks(TWO * steps), panels.par_chunks_mut(TWO * pairs));
            x.zip(to).for_each(turn);
            Self { panels, rows, steps }
        }

        /// The rows of a panel.
        fn rows(&self, panel: usize) -> Range<usize> {
            TWO * panel..self.rows.min(TWO * (panel + 1))
        }
    }

    /// A block of columns of a factor, for some panels.
    struct Block<'a> {
        x: &'a Turned,
        panels: Range<usize>,
        factor: &'a Factor<'a>,
        column: usize,
        act: Option<Pointwise>,
    }

    impl Block<'_> {
        /// # Safety
        /// As [`product`]; this thread has [`Tiles`], and nothing else refers to these columns of these rows of the result.
        unsafe fn run(self) {
            let Self { x, panels, factor, column, act } = self;
            let Weight::Bf16(weight) = factor.weight else { return };
            let columns = column..factor.columns.min(column + TWO);
            let (own, pairs) = (x.steps / 2, padded(x.steps));
            let w = &pairs::pairs_of(weight)[columns.start * own..columns.end * own];
            let whole = columns.len() == TWO && own == pairs;
            let mut copy = Scratch::<f32>::take(if whole { 0 } else { TWO * pairs });
            if !whole {
                copy.fill(0.0);
                for (w, copy) in w.chunks_exact(own).zip(copy.chunks_exact_mut(pairs)) {
                    copy[..own].copy_from_slice(w);
                }
            }
            let (w, ahead) = (if whole { w } else { &copy }, w.as_ptr_range().end);
            let mut sums = Aligned([0f32; TWO * TWO]);
            for panel in panels {
                let rows = x.rows(panel);
                let panel = &x.panels[rows.start * pairs..];
                let width = rows.len().next_multiple_of(LINES);
                let to = sums.0.as_mut_ptr();
                // SAFETY: as above; panel and columns have so many pairs, and there is room for the products.
                unsafe {
                    match width {
                        LINES => one_by_two(w.as_ptr(), pairs, panel.as_ptr(), ahead, to),
                        _ => two_by_two(w.as_ptr(), pairs, panel.as_ptr(), ahead, to),
                    }
                    finish(&mut sums.0, width, rows, factor, columns.clone(), act);
                }
            }
        }
    }

    /// The tiles of a thread, all of the full size.
    struct Tiles;

    #[repr(C, align(64))]
    struct Configuration {
        palette: u8,
        first_line: u8,
        reserved: [u8; 14],
        line_bytes: [u16; 16],
        lines: [u8; 16],
    }

    impl Tiles {
        /// # Safety
        /// Tiles are [`available`], and this thread does not use them otherwise.
        unsafe fn new() -> Self {
            let mut full =
                Configuration { palette: 1, first_line: 0, reserved: [0; 14], line_bytes: [0; 16], lines: [0; 16] };
            full.line_bytes[..8].fill(64);
            full.lines[..8].fill(LINES as u8);
            // SAFETY: as above; this reads 64 bytes.
            unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const full, options(nostack, preserves_flags, readonly)) };
            Self
        }
    }

    impl Drop for Tiles {
        fn drop(&mut self) {
            // SAFETY: there are tiles, or there would be no guard.
            unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
        }
    }

    /// Products in tiles alone, to see how fast they are: four in each step. Says how many operations that were.
    ///
    /// # Safety
    /// Tiles are [`available`].
    pub unsafe fn multiply_zeros(steps: usize) -> usize {
        // SAFETY: as above.
        unsafe {
            let _tiles = Tiles::new();
            asm!(
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {steps}",
                "jnz 2b",
                steps = inout(reg) steps.max(1) => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, nomem),
            );
        }
        // Each pair of elements is two multiplications and two additions.
        steps.max(1) * 4 * LINES.pow(3) * 4
    }

    /// Lines of 64 bytes that are asked for while as many are multiplied.
    macro_rules! ask {
        () => {
            concat!(
                ".irp at, 0, 64, 128, 192, 256, 320, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960\n",
                "prefetcht1 [{ahead} + \\at]\n",
                "prefetcht1 [{ahead} + 1024 + \\at]\n",
                ".endr",
            )
        };
    }

    /// `sums[c][r]` of [`TWO`] columns `w: [c][pairs]` and as many rows `x: [pairs][r]`; meanwhile as many columns are asked for
    /// from `ahead` on.
    ///
    /// # Safety
    /// This thread has [`Tiles`], and what is named is valid.
    unsafe fn two_by_two(w: *const f32, pairs: usize, x: *const f32, ahead: *const f32, sums: *mut f32) {
        // SAFETY: as above. Steps are taken by 32; columns and rows have whole numbers of them.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{w} + {column}]",
                "tileloadd tmm6, [{x} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{x} + {line} + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{w_next} + {column}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                ask!(),
                "add {w}, 64",
                "add {w_next}, 64",
                "add {x}, 2048",
                "add {ahead}, 2048",
                "dec {count}",
                "jnz 2b",
                "tilestored [{sums} + {line}], tmm0",
                "tilestored [{sums} + {line} + 64], tmm1",
                "tilestored [{sums} + {line} + 2048], tmm2",
                "tilestored [{sums} + {line} + 2112], tmm3",
                w = inout(reg) w => _,
                w_next = inout(reg) w.wrapping_add(LINES * pairs) => _,
                column = in(reg) 4 * pairs,
                x = inout(reg) x => _,
                line = in(reg) 4 * TWO,
                ahead = inout(reg) ahead => _,
                count = inout(reg) pairs / LINES => _,
                sums = in(reg) sums,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }

    /// The same for half as many rows.
    ///
    /// # Safety
    /// As [`two_by_two`].
    unsafe fn one_by_two(w: *const f32, pairs: usize, x: *const f32, ahead: *const f32, sums: *mut f32) {
        // SAFETY: as above.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "2:",
                "tileloadd tmm6, [{x} + {line}]",
                "tileloadd tmm4, [{w} + {column}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{w_next} + {column}]",
                "tdpbf16ps tmm1, tmm5, tmm6",
                ask!(),
                "add {w}, 64",
                "add {w_next}, 64",
                "add {x}, 1024",
                "add {ahead}, 2048",
                "dec {count}",
                "jnz 2b",
                "tilestored [{sums} + {line}], tmm0",
                "tilestored [{sums} + {line} + 1024], tmm1",
                w = inout(reg) w => _,
                w_next = inout(reg) w.wrapping_add(LINES * pairs) => _,
                column = in(reg) 4 * pairs,
                x = inout(reg) x => _,
                line = in(reg) 4 * LINES,
                ahead = inout(reg) ahead => _,
                count = inout(reg) pairs / LINES => _,
                sums = in(reg) sums,
                out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm5") _, out("tmm6") _,
                options(nostack),
            );
        }
    }
}

/// Other systems and processors have no tiles.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod other {
    use crate::Pointwise;
    use crate::cpu::product::Factor;

    pub fn available() -> bool {
        false
    }

    pub unsafe fn multiply_zeros(_: usize) -> usize {
        unreachable!("not available")
    }

    pub unsafe fn product(_: &[f32], _: usize, _: &[Factor<'_>], _: Option<Pointwise>) {
        unreachable!("not available")
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub use other::{available, multiply_zeros, product};
