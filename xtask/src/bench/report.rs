//! What was measured: statistics, the table, and the JSON.

use std::fmt;

use anyhow::{Result, ensure};
use serde::Serialize;

use super::bound::{Bound, Ceilings};

/// Everything that was measured.
#[derive(Serialize)]
pub struct Report {
    cpu: String,
    os: &'static str,
    threads: usize,
    rounds: usize,
    ceilings: Ceilings,
    pub workloads: Vec<Measured>,
}

/// One workload.
#[derive(Serialize)]
pub struct Measured {
    workload: &'static str,
    tx: SideMeasured,
    bound: Option<Bound>,
    /// The part of tx's time that the machine takes at least.
    share: Option<f64>,
    peers: Vec<PeerMeasured>,
}

/// One side; times are in seconds.
#[derive(Serialize)]
pub struct SideMeasured {
    name: String,
    median: f64,
    p10: f64,
    p90: f64,
    /// Of the model, by the median.
    tokens_per_second: Option<f64>,
    peak_bytes: Option<u64>,
    /// Every repetition, by rounds.
    rounds: Vec<Vec<f64>>,
}

/// A side beside tx.
#[derive(Serialize)]
pub struct PeerMeasured {
    #[serde(flatten)]
    side: SideMeasured,
    /// Its time as a multiple of tx's.
    ratio: f64,
    difference: Difference,
}

/// How far the numbers of a side are from tx's.
#[derive(Serialize)]
pub struct Difference {
    /// The norm of the difference as a multiple of the peer's.
    pub relative_l2: f64,
    /// The largest difference of two numbers.
    pub max_abs: f64,
    /// The cosine of the angle between two vectors, the smallest if there are several.
    pub cosine: f64,
}

impl Difference {
    /// Compares numbers that are `rows` vectors of equal length.
    pub fn new(tx: &[f32], peer: &[f32], rows: usize) -> Result<Self> {
        ensure!(tx.len() == peer.len(), "{} numbers, but tx has {}", peer.len(), tx.len());
        ensure!(!tx.is_empty() && tx.len().is_multiple_of(rows), "{} numbers are not {rows} vectors", tx.len());
        let pairs = || tx.iter().zip(peer).map(|(&a, &b)| (f64::from(a), f64::from(b)));
        let squares: f64 = pairs().map(|(a, b)| (a - b).powi(2)).sum();
        let norm: f64 = pairs().map(|(_, b)| b * b).sum();
        let len = tx.len() / rows;
        let cosines = tx.chunks_exact(len).zip(peer.chunks_exact(len)).map(|(a, b)| cosine(a, b));
        Ok(Self {
            relative_l2: (squares / norm).sqrt(),
            // Other than `f64::max` and `f64::min`, these keep what is not a number.
            max_abs: pairs().map(|(a, b)| (a - b).abs()).fold(0.0, |x, y| if x.is_nan() || y <= x { x } else { y }),
            cosine: cosines.fold(1.0, |x, y| if x.is_nan() || y >= x { x } else { y }),
        })
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "relative L2 {:.1e}, largest {:.1e}, cosine {:.6}", self.relative_l2, self.max_abs, self.cosine)
    }
}

/// The median; 0 of nothing.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which this part of the values lies, between two of them where need be; 0 of nothing.
fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = part * last as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * place.fract()
}

impl SideMeasured {
    /// A side whose repetitions take `tokens` tokens through the model, if that can be said.
    pub fn new(name: String, rounds: Vec<Vec<f64>>, tokens: Option<usize>, peak_bytes: Option<u64>) -> Self {
        let all = rounds.concat();
        let (median, p10, p90) = (median(&all), quantile(&all, 0.1), quantile(&all, 0.9));
        let tokens_per_second = tokens.map(|tokens| tokens as f64 / median);
        Self { name, median, p10, p90, tokens_per_second, peak_bytes, rounds }
    }

    /// The middle of the times, the tokens per second, and where most of the times lie.
    fn cells(&self) -> [String; 4] {
        let speed = self.tokens_per_second.map_or_else(none, three_digits);
        let memory = self.peak_bytes.map_or_else(none, |bytes| format!("{:.0}", bytes as f64 / 1e6));
        [ms(self.median), speed, format!("{}–{}", ms(self.p10), ms(self.p90)), memory]
    }
}

impl PeerMeasured {
    pub fn new(tx: &SideMeasured, side: SideMeasured, difference: Difference) -> Self {
        // Turns of one round lie side by side, where the machine was the same for both.
        let rounds = tx.rounds.iter().zip(&side.rounds);
        let ratios: Vec<f64> = rounds.map(|(tx, peer)| median(peer) / median(tx)).collect();
        Self { ratio: median(&ratios), side, difference }
    }
}

impl Measured {
    pub fn new(workload: &'static str, tx: SideMeasured, bound: Option<Bound>, peers: Vec<PeerMeasured>) -> Self {
        let share = bound.as_ref().map(|bound| bound.seconds / tx.median);
        Self { workload, tx, bound, share, peers }
    }

    /// One line of the table for each peer, or one for tx alone.
    fn lines(&self) -> Vec<[String; COLUMNS.len()]> {
        let [tx_time, tx_speed, tx_spread, tx_memory] = self.tx.cells();
        let bound = self.bound.as_ref().map_or_else(none, |bound| format!("{} {}", ms(bound.seconds), bound.by));
        let share = self.share.map_or_else(none, |share| format!("{:.0} %", share * 100.0));
        let line = |peer: Option<&PeerMeasured>| {
            let [time, speed, spread, memory] =
                peer.map_or_else(|| [none(), none(), none(), none()], |peer| peer.side.cells());
            let (name, ratio) =
                peer.map_or_else(|| (none(), none()), |peer| (peer.side.name.clone(), format!("{:.2}", peer.ratio)));
            let (tx_time, tx_speed) = (tx_time.clone(), tx_speed.clone());
            let (tx_spread, tx_memory) = (tx_spread.clone(), tx_memory.clone());
            let workload = self.workload.to_owned();
            let (bound, share) = (bound.clone(), share.clone());
            [workload, name, tx_time, time, ratio, tx_speed, speed, tx_spread, spread, tx_memory, memory, bound, share]
        };
        if self.peers.is_empty() { vec![line(None)] } else { self.peers.iter().map(Some).map(line).collect() }
    }
}

/// The columns of the table; the first two hold words, the others numbers.
const COLUMNS: [&str; 13] = [
    "workload",
    "peer",
    "tx ms",
    "peer ms",
    "ratio",
    "tx tok/s",
    "peer tok/s",
    "tx spread",
    "peer spread",
    "tx MB",
    "peer MB",
    "bound ms",
    "share",
];
const WORDS: usize = 2;

impl Report {
    pub fn new(threads: usize, rounds: usize, ceilings: Ceilings) -> Self {
        Self { cpu: cpu(), os: std::env::consts::OS, threads, rounds, ceilings, workloads: Vec::new() }
    }

    /// The machine in one line.
    pub fn machine(&self) -> String {
        let Ceilings { matrix_peak, bf16_peak, int8_peak, stream_bandwidth } = self.ceilings;
        format!(
            "{}, threads: {}; at most {:.0} GFLOP/s in f32, {:.0} in bf16, {:.0} GOP/s in int8, {:.1} GB/s from memory",
            self.cpu,
            self.threads,
            matrix_peak / 1e9,
            bf16_peak / 1e9,
            int8_peak / 1e9,
            stream_bandwidth / 1e9
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.machine())?;
        let mut lines = vec![COLUMNS.map(str::to_owned)];
        lines.extend(self.workloads.iter().flat_map(Measured::lines));
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
        for line in &lines {
            let cells = line.iter().zip(&widths).enumerate();
            let cells: Vec<String> = cells
                .map(|(i, (cell, &width))| if i < WORDS { format!("{cell:width$}") } else { format!("{cell:>width$}") })
                .collect();
            writeln!(f, "{}", cells.join("  "))?;
        }
        write!(
            f,
            "\nMedians of all repetitions; spread is from the 10th to the 90th percentile; ratio is the peer's time \
             over tx's, above 1 where tx\nis faster; tok/s are the tokens that go through the model in a second; MB is \
             the peak of what was resident, mapped files\nincluded; bound is the least time that the machine allows, \
             share its part of tx's."
        )
    }
}

/// A cell without content.
fn none() -> String {
    "–".to_owned()
}

/// Seconds as milliseconds.
fn ms(seconds: f64) -> String {
    three_digits(seconds * 1e3)
}

/// A number with about three digits.
fn three_digits(number: f64) -> String {
    let digits = if number < 9.995 {
        2
    } else if number < 99.95 {
        1
    } else {
        0
    };
    format!("{number:.digits$}")
}

/// The processor's name, or its kind where the system does not tell.
fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_values() {
        assert_eq!((median(&[]), median(&[3.0]), median(&[4.0, 1.0, 3.0, 2.0])), (0.0, 3.0, 2.5));
        assert_eq!((quantile(&[10.0, 0.0, 5.0], 0.1), quantile(&[10.0, 0.0, 5.0], 1.0)), (1.0, 10.0));
    }

    #[test]
    fn times_have_three_digits() {
        let shown = [0.000_123_4, 0.009_999, 0.012_34, 0.123_4, 12.345].map(ms);
        assert_eq!(shown, ["0.12", "10.0", "12.3", "123", "12345"]);
    }

    #[test]
    fn the_ratio_is_that_of_neighbouring_turns() {
        let tx = SideMeasured::new("tx".to_owned(), vec![vec![1.0], vec![10.0], vec![1.0]], Some(77), Some(2_000_000));
        let peer = SideMeasured::new("peer".to_owned(), vec![vec![2.0], vec![20.0], vec![2.0]], None, None);
        let difference = Difference::new(&[1.0, 2.0], &[1.0, 2.0], 1).unwrap();
        let peer = PeerMeasured::new(&tx, peer, difference);
        assert_eq!((tx.median, peer.ratio, peer.side.median), (1.0, 2.0, 2.0));
        let bound = Bound { seconds: 0.25, by: "bytes", operations: 1.0, bytes: 1.0 };
        let ceilings = Ceilings { matrix_peak: 1e9, bf16_peak: 2e9, int8_peak: 4e9, stream_bandwidth: 1e9 };
        let mut report = Report::new(1, 3, ceilings);
        report.workloads.push(Measured::new("w", tx, Some(bound), vec![peer]));
        let text = report.to_string();
        for part in ["1000–8200", "250 bytes", "25 %", "2.00", "77.0"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let json: serde_json::Value = serde_json::to_value(&report).unwrap();
        assert_eq!(json["workloads"][0]["peers"][0]["name"], "peer");
        assert_eq!(json["workloads"][0]["tx"]["peak_bytes"], 2_000_000);
    }

    #[test]
    fn differences_are_of_the_worst_row_and_keep_what_is_not_a_number() {
        let same = Difference::new(&[1.0, 0.0, 0.0, 2.0], &[1.0, 0.0, 0.0, 2.0], 2).unwrap();
        assert_eq!((same.relative_l2, same.max_abs, same.cosine), (0.0, 0.0, 1.0));
        let other = Difference::new(&[1.0, 0.0, 0.0, 2.0], &[1.0, 0.0, 2.0, 0.0], 2).unwrap();
        assert_eq!((other.max_abs, other.cosine), (2.0, 0.0));
        let broken = Difference::new(&[f32::NAN, 1.0], &[1.0, 1.0], 2).unwrap();
        assert!(broken.relative_l2.is_nan() && broken.max_abs.is_nan() && broken.cosine.is_nan());
        assert!(Difference::new(&[1.0], &[1.0, 2.0], 1).is_err() && Difference::new(&[], &[], 1).is_err());
    }
}
