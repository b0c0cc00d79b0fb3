use burn::tensor::BoolStore;

use super::*;
use crate::weights::{Checkpoint, pickle};

fn tensor(values: &[f32]) -> StoredTensor {
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    StoredTensor { path: "memory".into(), dtype: DType::F32, shape: vec![values.len()], bytes: bytes.into() }
}

/// `count` tensors of four floats, `fill` in all of them.
fn tensors(count: usize, fill: f32) -> BTreeMap<String, StoredTensor> {
    (0..count).map(|i| (format!("layer.{i}.weight"), tensor(&[fill; 4]))).collect()
}

fn assert_holds(folder: &Path, expected: &BTreeMap<String, StoredTensor>) {
    let found = Checkpoint::from_folder(folder).unwrap();
    assert_eq!(found.tensors().keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, tensor) in expected {
        let found = &found.tensors()[name];
        assert_eq!((found.dtype, &found.shape, &found.bytes), (tensor.dtype, &tensor.shape, &tensor.bytes), "{name}");
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_dtype_round_trips_in_every_format() {
    let dtypes = [DType::F64, DType::F32, DType::F16, DType::BF16, DType::I64, DType::I32, DType::I16, DType::I8];
    let more = [DType::U64, DType::U32, DType::U16, DType::U8, DType::Bool(BoolStore::Native)];
    let mut all = BTreeMap::new();
    for (i, dtype) in dtypes.into_iter().chain(more).enumerate() {
        for shape in [vec![], vec![0, 3], vec![2, 1, 3]] {
            let len = shape.iter().product::<usize>() * dtype.size();
            let bytes: Vec<u8> = (0..len).map(|j| ((i + j) % 2) as u8).collect();
            let tensor = StoredTensor { path: "memory".into(), dtype, shape: shape.clone(), bytes: bytes.into() };
            all.insert(format!("{} {shape:?}", dtype_name(dtype)), tensor);
        }
    }
    let folder = tempfile::tempdir().unwrap();
    write_folder(folder.path(), &all, MAX_SHARD_SIZE).unwrap();
    assert_holds(folder.path(), &all);
    let folder = tempfile::tempdir().unwrap();
    write_pytorch(folder.path(), &all, MAX_SHARD_SIZE).unwrap();
    assert_holds(folder.path(), &all);
    let folder = tempfile::tempdir().unwrap();
    write_format(folder.path(), Format::Burnpack, &all, MAX_SHARD_SIZE).unwrap();
    let found = burnpack::read(&folder.path().join("model.bpk")).unwrap();
    assert_eq!(found.len(), all.len());
    all.iter().for_each(|(name, tensor)| {
        assert_eq!(
            (found[name].dtype, &found[name].shape, &found[name].bytes),
            (tensor.dtype, &tensor.shape, &tensor.bytes)
        );
    });
}

#[test]
fn the_header_is_the_one_that_python_writes() {
    let folder = tempfile::tempdir().unwrap();
    let mut all = tensors(1, 1.0);
    let bytes = Bytes::from_static(&[1, 0, 2, 0]);
    all.insert("a".into(), StoredTensor { path: "memory".into(), dtype: DType::I16, shape: vec![2], bytes });
    write_folder(folder.path(), &all, MAX_SHARD_SIZE).unwrap();
    let file = fs::read(folder.path().join("model.safetensors")).unwrap();
    let header = r#"{"__metadata__":{"format":"pt"},"layer.0.weight":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{"dtype":"I16","shape":[2],"data_offsets":[16,20]}}"#;
    let len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    assert_eq!(std::str::from_utf8(&file[8..8 + len]).unwrap().trim_end(), header);
    assert_eq!((len % 8, &file[8 + len + 16..]), (0, &[1, 0, 2, 0][..]));
}

#[test]
fn shards_and_index_are_those_of_python() {
    let folder = tempfile::tempdir().unwrap();
    let mut all = tensors(3, 1.0);
    all.insert("big".into(), tensor(&[2.0; 100]));
    write_folder(folder.path(), &all, 32).unwrap();
    assert_holds(folder.path(), &all);
    let index = fs::read_to_string(folder.path().join("model.safetensors.index.json")).unwrap();
    let expected = r#"{
  "metadata": {
    "total_size": 448
  },
  "weight_map": {
    "big": "model-00001-of-00003.safetensors",
    "layer.0.weight": "model-00002-of-00003.safetensors",
    "layer.1.weight": "model-00002-of-00003.safetensors",
    "layer.2.weight": "model-00003-of-00003.safetensors"
  }
}
"#;
    assert_eq!(index, expected);
    let folder = tempfile::tempdir().unwrap();
    write_pytorch(folder.path(), &all, 32).unwrap();
    assert_holds(folder.path(), &all);
    assert!(folder.path().join("pytorch_model-00003-of-00003.bin").is_file());
}

#[test]
fn each_save_replaces_the_one_before_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let others = ["README.md", "config.json", "model-card.safetensors", "optimizer.bin"];
    others.iter().for_each(|name| fs::write(path.join(name), name).unwrap());
    // What a killed save left, and what another program is about to write.
    fs::write(path.join(".tx-abc123-model-00001-of-00002.safetensors"), "cut").unwrap();
    fs::write(path.join(".tx-abc123-tokenizer.json"), "cut").unwrap();
    // One file, two shards, the same two shards again, three, two, one, none.
    for (step, (count, limit)) in
        [(4, 1000), (4, 32), (4, 32), (3, 16), (4, 32), (4, 1000), (0, 16)].into_iter().enumerate()
    {
        let all = tensors(count, step as f32);
        write_folder(path, &all, limit).unwrap();
        assert_holds(path, &all);
        let shards = names(path).iter().filter(|name| name.contains("-of-")).count();
        assert_eq!(shards, if limit == 1000 || count == 0 { 0 } else { count * 16 / limit as usize }, "step {step}");
    }
    assert_eq!(
        names(path),
        [
            ".tx-abc123-tokenizer.json",
            "README.md",
            "config.json",
            "model-card.safetensors",
            "model.safetensors",
            "optimizer.bin"
        ]
    );
}

#[test]
fn a_save_that_fails_leaves_what_was_there() {
    for limit in [1000, 16] {
        for format in Format::ALL {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path();
            let before = tensors(3, 1.0);
            write_format(path, format, &before, limit).unwrap();
            let files: Vec<_> =
                names(path).into_iter().map(|name| (fs::read(path.join(&name)).unwrap(), name)).collect();
            let after = tensors(3, 2.0);
            let mut planned: Vec<_> = after.iter().map(|(name, tensor)| Planned::stored(name, tensor)).collect();
            planned[1].produce = Arc::new(|| Err(Error::input("weights", "none", "some")));
            let error = stage(path, format, &planned, limit, &mut |_, _| ()).unwrap_err();
            assert!(matches!(error, Error::Input { .. }), "{error}");
            planned[1].produce = Arc::new(|| Ok(Bytes::from_static(b"short")));
            let error = stage(path, format, &planned, limit, &mut |_, _| ()).unwrap_err();
            assert!(matches!(&error, Error::Tensor { tensor, .. } if tensor == "layer.1.weight"), "{error}");
            // A save that is complete, but not committed.
            planned.remove(1);
            drop(stage(path, format, &planned, limit, &mut |_, _| ()).unwrap());
            assert_eq!(names(path), files.iter().map(|(_, name)| name.clone()).collect::<Vec<_>>());
            files.iter().for_each(|(bytes, name)| assert_eq!(&fs::read(path.join(name)).unwrap(), bytes));
        }
    }
}

#[test]
fn shards_in_use_are_replaced_behind_an_index_of_other_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write_folder(path, &tensors(2, 1.0), 16).unwrap();
    let after = tensors(2, 2.0);
    let planned: Vec<_> = after.iter().map(|(name, tensor)| Planned::stored(name, tensor)).collect();
    let staged = stage(path, Format::Safetensors, &planned, 16, &mut |_, _| ()).unwrap();
    assert_holds(path, &tensors(2, 1.0));
    // The state in the middle of a commit: loadable, and the new one.
    relink(path, &path.join("model.safetensors.index.json"), staged.files, staged.total).unwrap();
    assert_holds(path, &after);
    assert!(fs::read_to_string(path.join("model.safetensors.index.json")).unwrap().contains(".tx-"));
    // The save after a kill at this point.
    let last = tensors(2, 3.0);
    write_folder(path, &last, 16).unwrap();
    assert_holds(path, &last);
    assert_eq!(
        names(path),
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    );
}

#[test]
fn tied_tensors_share_a_storage_in_pytorch() {
    let folder = tempfile::tempdir().unwrap();
    let mut all = tensors(1, 1.0);
    all.insert("tied".into(), all["layer.0.weight"].clone());
    write_pytorch(folder.path(), &all, MAX_SHARD_SIZE).unwrap();
    let found = pickle::read(&folder.path().join("pytorch_model.bin")).unwrap();
    assert_eq!(found["tied"].bytes.as_ptr(), found["layer.0.weight"].bytes.as_ptr());
    assert_eq!(found["tied"].bytes.as_ptr() as usize % 64, 0);
}

#[test]
fn progress_ends_with_the_total() {
    for format in Format::ALL {
        let folder = tempfile::tempdir().unwrap();
        let all = tensors(3, 1.0);
        let planned: Vec<_> = all.iter().map(|(name, tensor)| Planned::stored(name, tensor)).collect();
        let mut last = (0, 0);
        stage(folder.path(), format, &planned, 16, &mut |done, total| last = (done, total)).unwrap();
        assert_eq!(last, (48, 48));
    }
}

#[test]
fn files_are_written_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    write_atomically(&path, |file| file.write_all(b"old")).unwrap();
    let cut = |file: &mut dyn Write| file.write_all(b"ne").and_then(|()| Err(io::Error::other("cut")));
    let error = write_atomically(&path, cut).unwrap_err();
    assert!(matches!(&error, Error::Io { path: named, .. } if *named == path), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(names(folder.path()), ["config.json"]);
    #[cfg(unix)]
    {
        // As readable as any other file, not private as temporary ones.
        use std::os::unix::fs::PermissionsExt;
        let plain = folder.path().join("plain");
        fs::write(&plain, "").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&plain));
    }
    let error = write_atomically(&folder.path().join("missing/config.json"), |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains("missing/config.json"), "{error}");
}

#[test]
fn broken_burnpack_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    write_format(folder.path(), Format::Burnpack, &tensors(2, 1.0), MAX_SHARD_SIZE).unwrap();
    let good = fs::read(folder.path().join("model.bpk")).unwrap();
    let read = |bytes: &[u8]| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        burnpack::read(file.path())
    };
    for len in 0..good.len() {
        assert!(matches!(read(&good[..len]), Err(Error::Malformed { .. })), "{len}");
    }
    for at in 0..good.len().min(400) {
        for byte in [0, 1, 0x7f, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            if let Ok(tensors) = read(&bytes) {
                tensors.values().for_each(|t| assert_eq!(t.elements() * t.dtype.size(), t.bytes.len()));
            }
        }
    }
}
