//! Which rows of a batch begin alike, because one of them was made of the other.

/// Tokens of a row, from `start` to the next run: only rows that have these very tokens have a run of this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    start: usize,
    number: u64,
}

/// Where the tokens of each row come from.
#[derive(Debug, Clone, Default)]
pub(super) struct Lineages {
    rows: Vec<Vec<Run>>,
    /// The number of the next run.
    next: u64,
}

/// A row that becomes another one and shares its first `common` tokens already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fork {
    pub from: usize,
    pub to: usize,
    pub common: usize,
}

impl Lineages {
    /// Makes sure that there are `count` rows; as long as there were others, none shares anything.
    pub fn set_count(&mut self, count: usize) {
        if self.rows.len() != count {
            self.rows = vec![Vec::new(); count];
            self.diverge(0);
        }
    }

    /// From `length` tokens on, every row goes its own way.
    pub fn diverge(&mut self, length: usize) {
        for runs in &mut self.rows {
            runs.retain(|run| run.start < length);
            runs.push(Run { start: length, number: self.next });
            self.next += 1;
        }
    }

    /// Keeps the rows that are named, as often as they are, after `length` tokens.
    pub fn select(&mut self, rows: &[usize], length: usize) {
        self.rows = rows.iter().map(|&row| self.rows[row].clone()).collect();
        self.diverge(length);
    }

    /// Makes the rows be those that are named, as many as there are, after `length` tokens. A row that is named stays
    /// where it is; one that is not becomes one that is named again, and of these the one that it shares the most with.
    ///
    /// Returns for each row which of those named it is now, and what was copied.
    pub fn place(&mut self, named: &[usize], length: usize) -> (Vec<usize>, Vec<Fork>) {
        let mut order: Vec<Option<usize>> = vec![None; self.rows.len()];
        let mut again = Vec::new();
        for (i, &row) in named.iter().enumerate() {
            if order[row].is_none() {
                order[row] = Some(i);
            } else {
                again.push(i);
            }
        }
        let mut free: Vec<usize> = (0..order.len()).filter(|&row| order[row].is_none()).collect();
        let mut forks = Vec::with_capacity(free.len());
        for i in again {
            let from = named[i];
            let shared = |&at: &usize| self.common(from, free[at], length);
            let Some(best) = (0..free.len()).max_by_key(shared) else { break };
            let to = free.swap_remove(best);
            forks.push(Fork { from, to, common: self.common(from, to, length) });
            order[to] = Some(i);
            self.rows[to] = self.rows[from].clone();
            self.rows[to].push(Run { start: length, number: self.next });
            self.next += 1;
        }
        (order.into_iter().flatten().collect(), forks)
    }

    /// How many of their first tokens two rows share.
    fn common(&self, a: usize, b: usize, length: usize) -> usize {
        let (a, b) = (&self.rows[a], &self.rows[b]);
        let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
        let end = |runs: &[Run]| runs.get(same).map_or(length, |run| run.start);
        end(a).min(end(b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_share_what_they_had_when_they_parted() {
        let mut rows = Lineages::default();
        rows.set_count(1);
        rows.select(&[0, 0, 0], 5);
        assert_eq!(rows.common(0, 2, 5), 5);
        // Two tokens later, one row is dropped for another one, and again after three more.
        let (order, forks) = rows.place(&[2, 0, 2], 7);
        assert_eq!((order, forks), (vec![1, 2, 0], vec![Fork { from: 2, to: 1, common: 5 }]));
        assert_eq!((rows.common(1, 2, 10), rows.common(0, 1, 10)), (7, 5));
        let (order, forks) = rows.place(&[1, 1, 0], 10);
        assert_eq!((order, forks), (vec![2, 0, 1], vec![Fork { from: 1, to: 2, common: 7 }]));
        // What was cut off and came anew is not shared.
        rows.diverge(6);
        assert_eq!((rows.common(1, 2, 9), rows.common(0, 2, 9)), (6, 5));
    }

    #[test]
    fn a_row_becomes_the_one_that_it_shares_the_most_with() {
        let mut rows = Lineages::default();
        rows.set_count(2);
        rows.select(&[0, 0, 1, 1], 3);
        let (order, forks) = rows.place(&[2, 2, 1, 1], 4);
        assert_eq!(order, [3, 2, 0, 1]);
        assert_eq!(forks, [Fork { from: 2, to: 3, common: 3 }, Fork { from: 1, to: 0, common: 3 }]);
        // Without another row, everything stays.
        let (order, forks) = rows.place(&[3, 2, 1, 0], 5);
        assert_eq!((order, forks), (vec![3, 2, 1, 0], vec![]));
    }
}
