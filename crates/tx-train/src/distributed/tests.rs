//! Ranks that are threads: what they add up, and how they end together.

use std::thread;

use burn::tensor::Tensor;

use super::buckets::in_buckets;
use super::threads::Threads;
use super::*;
use crate::parameters::tests::Loose;
use crate::parameters::{Gradients, Trainable};

/// Runs the same on as many ranks, and gives what each gave.
fn on_ranks<T: Send>(size: usize, run: impl Fn(&dyn Communicator) -> T + Sync) -> Vec<T> {
    let run = &run;
    thread::scope(|scope| {
        let ranks = Threads::start(size);
        let ranks: Vec<_> = ranks.into_iter().map(|rank| scope.spawn(move || run(&rank))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// The gradients of the sum of `rows` by the number of all rows, by name.
fn gradients_of(ranks: &dyn Communicator, rows: &[[f32; 4]]) -> Vec<Option<Vec<f32>>> {
    let mut source = Loose::new(&[("a", &[0.5; 2]), ("b", &[0.25; 2]), ("c", &[1.0; 2])]);
    Trainable::all().track(&mut source).unwrap();
    let mut gradients = Gradients::new(&source);
    let mut items = [rows.len() as f64];
    ranks.sum(&mut items).unwrap();
    for row in rows {
        let mut factors = vec![("a", &row[..2])];
        // A part of the model that only some rows use.
        if row[2] != 0.0 {
            factors.push(("b", &row[2..]));
        }
        gradients.add(&source, &mut source.backward(&factors));
    }
    gradients.scale(1.0 / items[0]);
    in_buckets(ranks, &mut gradients, 3).unwrap();
    let values = |(sum, scale): (Tensor<1>, f64)| -> Vec<f32> { (sum * scale).into_data().try_to_vec().unwrap() };
    ["a", "b", "c"].map(|name| gradients.take(name).map(values)).into()
}

#[test]
fn ranks_with_parts_of_a_batch_have_the_gradients_of_one_with_all_of_it() {
    let rows: Vec<[f32; 4]> = (0..7u8)
        .map(|i| {
            let x = f32::from(i);
            [x - 2.5, 0.1 * x, if i == 3 { 1.5 } else { 0.0 }, x * x]
        })
        .collect();
    let alone = gradients_of(&Single, &rows);
    assert!(alone[0].is_some() && alone[1].is_some() && alone[2].is_none());
    for size in [2, 3, 8] {
        // With eight ranks the last has no rows.
        let parts = on_ranks(size, |ranks| {
            let own: Vec<_> = rows.iter().skip(ranks.rank()).step_by(size).copied().collect();
            let gradients = gradients_of(ranks, &own);
            ranks.finish().unwrap();
            gradients
        });
        for part in parts {
            for (of_part, of_all) in part.iter().zip(&alone) {
                assert_eq!(of_part.is_some(), of_all.is_some());
                for (x, y) in of_part.iter().flatten().zip(of_all.iter().flatten()) {
                    assert!((x - y).abs() <= 1e-6 * y.abs().max(1.0), "{size} ranks: {x} {y}");
                }
            }
        }
    }
}

#[test]
fn everybody_learns_what_one_has() {
    let all = on_ranks(3, |ranks| {
        let own = [ranks.rank() as u8; 2];
        let mut sums = [ranks.rank() as f64, 1.0];
        ranks.sum(&mut sums).unwrap();
        ranks.barrier().unwrap();
        // Two sums under way at once.
        let first = ranks.all_reduce(vec![1.0, 2.0]).unwrap();
        let second = ranks.all_reduce(vec![ranks.rank() as f32]).unwrap();
        let reduced = (first.wait().unwrap(), second.wait().unwrap());
        let of_two = ranks.broadcast(2, own.to_vec()).unwrap();
        let gathered = gather(ranks, &own).unwrap();
        ranks.finish().unwrap();
        (sums, reduced, of_two, gathered, ranks.is_main())
    });
    for (rank, (sums, reduced, of_two, gathered, is_main)) in all.into_iter().enumerate() {
        assert_eq!((sums, reduced), ([3.0, 3.0], (vec![3.0, 6.0], vec![3.0])));
        assert_eq!((of_two, gathered), (vec![2; 2], vec![vec![0; 2], vec![1; 2], vec![2; 2]]));
        assert_eq!(is_main, rank == 0);
    }
    for rows in on_ranks(3, |ranks| {
        let own: Vec<(u8, String)> =
            (0..7).skip(ranks.rank()).step_by(3).map(|row| (row, "x".repeat(row.into()))).collect();
        let rows = gather_rows(ranks, own).unwrap();
        ranks.finish().unwrap();
        rows
    }) {
        assert!(rows.iter().map(|(row, text)| (*row, text.len())).eq((0..7).map(|row| (row, usize::from(row)))));
    }
    let mut sum = [5.0];
    Single.sum(&mut sum).unwrap();
    assert_eq!((sum, Single.all_reduce(vec![1.0]).unwrap().wait().unwrap()), ([5.0], vec![1.0]));
    Single.finish().unwrap();
}

#[test]
fn other_weights_are_noticed_before_the_first_step() {
    let digest_of = |value: f32| {
        let mut source = Loose::new(&[("a", &[0.5, 1.0]), ("b", &[0.25, value])]);
        let plain = digest(&source);
        Trainable::all().track(&mut source).unwrap();
        assert_eq!(digest(&source), plain);
        plain
    };
    let results = on_ranks(4, |ranks| {
        let value = if ranks.rank() < 2 { 1.0 } else { 1.5 };
        let same = check_same(ranks, "steps", &[1]);
        let weights = check_same(ranks, "weights", &digest_of(value));
        ranks.finish().unwrap();
        (same, weights)
    });
    for (same, weights) in results {
        same.unwrap();
        assert!(weights.unwrap_err().to_string().starts_with("rank 2: its weights differ from those of rank 0"));
    }
}

#[test]
fn a_folder_that_one_rank_does_not_see_is_noticed() {
    let [shared, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let results = on_ranks(3, |ranks| {
        let same = check_shared(ranks, shared.path());
        let own = if ranks.rank() == 2 { other.path() } else { shared.path() };
        let result = check_shared(ranks, own);
        ranks.finish().unwrap();
        (same, result)
    });
    for (rank, (same, result)) in results.into_iter().enumerate() {
        same.unwrap();
        match (rank, result.unwrap_err()) {
            (2, Error::Input { what, .. }) => assert_eq!(what, "output_dir"),
            (0 | 1, Error::Distributed { rank: Some(2), reason, .. }) => assert!(reason.contains("not the folder")),
            (_, error) => panic!("{error}"),
        }
    }
    for folder in [&shared, &other] {
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a file was left");
    }
}

#[test]
fn an_error_of_one_rank_ends_all_in_the_same_place() {
    let results = on_ranks(3, |ranks| {
        let fine = agree(ranks, Ok(ranks.rank())).unwrap();
        let broken = if ranks.rank() == 1 { Err(Error::input("row 7", "nothing", "a text")) } else { Ok(()) };
        let result = agree(ranks, broken);
        ranks.finish().unwrap();
        (fine, result)
    });
    for (rank, (fine, result)) in results.into_iter().enumerate() {
        assert_eq!(fine, rank);
        match (rank, result.unwrap_err()) {
            (1, error) => assert!(matches!(error, Error::Input { .. }), "{error}"),
            (_, Error::Distributed { rank: Some(1), reason, .. }) => assert!(reason.starts_with("row 7: nothing")),
            (_, error) => panic!("{error}"),
        }
    }
    assert!(matches!(agree(&Single, Err::<(), _>(Error::input("a", "b", "c"))), Err(Error::Input { .. })));
}

#[test]
fn a_rank_that_goes_without_a_word_is_missed() {
    let results = on_ranks(3, |ranks| {
        ranks.barrier().unwrap();
        if ranks.rank() == 2 {
            return None;
        }
        let lost = ranks.barrier().unwrap_err();
        // The own error is not lost over it.
        let own = agree::<()>(ranks, Err(Error::input("a", "b", "c"))).unwrap_err();
        Some((lost, own, agree(ranks, Ok(())).unwrap_err()))
    });
    for (lost, own, agreed) in results.into_iter().flatten() {
        assert!(matches!(lost, Error::Distributed { rank: Some(2), .. }), "{lost}");
        assert!(matches!(own, Error::Input { .. }), "{own}");
        assert!(matches!(agreed, Error::Distributed { rank: Some(_), .. }), "{agreed}");
    }
}

#[test]
fn launchers_say_how_many_processes_there_are() {
    let size = |set: &[(&str, &str)]| {
        launched(&|name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    };
    assert_eq!(size(&[]), 1);
    assert_eq!(size(&[("OMPI_COMM_WORLD_SIZE", "4"), ("SLURM_STEP_NUM_TASKS", "1")]), 4);
    assert_eq!((size(&[("PMI_SIZE", "3")]), size(&[("SLURM_STEP_NUM_TASKS", " 2\n")])), (3, 2));
    assert_eq!(size(&[("PMI_SIZE", "many")]), 1);
}
