use super::*;
use crate::weights::save::{write_folder, write_pytorch};

fn tensor<const N: usize>(dtype: DType, values: impl IntoIterator<Item = [u8; N]>) -> StoredTensor {
    let bytes: Vec<u8> = values.into_iter().flatten().collect();
    StoredTensor { path: "memory".into(), dtype, shape: vec![bytes.len() / N], bytes: bytes.into() }
}

fn floats(values: &[f32]) -> StoredTensor {
    tensor(DType::F32, values.iter().map(|x| x.to_le_bytes()))
}

/// A folder with floats, integers and what lies beside the weights on the Hub.
fn source() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let tensors = BTreeMap::from([
        ("weight".to_owned(), floats(&[1.0, -2.5, 65504.0, f32::INFINITY])),
        ("half".to_owned(), tensor(DType::F16, [1.0, 0.1].map(|x| f16::from_f32(x).to_le_bytes()))),
        ("ids".to_owned(), tensor(DType::I64, [1i64, -1].map(i64::to_le_bytes))),
    ]);
    write_folder(folder.path(), &tensors, 16).unwrap();
    let config =
        "{\n  \"dtype\": \"float32\",\n  \"scale\": Infinity,\n  \"text_config\": {\"torch_dtype\" : \"float32\"}\n}\n";
    fs::write(folder.path().join("config.json"), config).unwrap();
    fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    fs::write(folder.path().join("vocab.txt"), "a\nb\n").unwrap();
    fs::write(folder.path().join("README.md"), "no").unwrap();
    for module in ["1_Pooling", "onnx"] {
        fs::create_dir(folder.path().join(module)).unwrap();
        fs::write(folder.path().join(module).join("config.json"), "{}").unwrap();
    }
    folder
}

fn options(format: Format, dtype: Option<DType>) -> ConvertOptions {
    ConvertOptions { format, dtype, ..Default::default() }
}

fn run(source: &Path, target: &Path, options: &ConvertOptions) -> Result<ConvertReport> {
    convert(source, target, options, &mut |_, _| ())
}

#[test]
fn every_format_becomes_every_other_without_a_changed_bit() {
    let first = source();
    let expected = open(first.path()).unwrap();
    for from in Format::ALL {
        let middle = tempfile::tempdir().unwrap();
        run(first.path(), middle.path(), &options(from, None)).unwrap();
        for to in Format::ALL {
            let last = tempfile::tempdir().unwrap();
            let report = run(middle.path(), last.path(), &options(to, None)).unwrap();
            assert_eq!((report.tensors, report.converted, report.bytes), (3, 0, 36));
            assert_eq!(report.files, [last.path().join(to.file_name())]);
            assert_eq!(
                report.companions,
                ["1_Pooling/config.json", "config.json", "tokenizer.json", "vocab.txt"]
                    .map(|name| last.path().join(name))
            );
            let found = open(last.path()).unwrap();
            for (name, tensor) in &expected {
                assert_eq!(
                    (found[name].dtype, &found[name].shape, &found[name].bytes),
                    (tensor.dtype, &tensor.shape, &tensor.bytes)
                );
            }
            let config = |folder: &Path| fs::read(folder.join("config.json")).unwrap();
            assert_eq!(config(last.path()), config(first.path()));
        }
    }
}

#[test]
fn floats_change_dtype_and_integers_do_not() {
    let source = source();
    let target = tempfile::tempdir().unwrap();
    let report = run(source.path(), target.path(), &options(Format::Safetensors, Some(DType::BF16))).unwrap();
    assert_eq!((report.converted, report.bytes), (2, 28));
    let found = open(target.path()).unwrap();
    let bf = |values: &[f32]| values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect::<Vec<_>>();
    assert_eq!(
        (found["weight"].dtype, found["weight"].bytes.to_vec()),
        (DType::BF16, bf(&[1.0, -2.5, 65504.0, f32::INFINITY]))
    );
    assert_eq!(found["half"].bytes, bf(&[1.0, f16::from_f32(0.1).to_f32()]));
    assert_eq!(found["ids"].dtype, DType::I64);
    let config = fs::read_to_string(target.path().join("config.json")).unwrap();
    let expected = "{\n  \"dtype\": \"bfloat16\",\n  \"scale\": Infinity,\n  \"text_config\": {\"torch_dtype\" : \"bfloat16\"}\n}\n";
    assert_eq!(config, expected);
}

#[test]
fn what_overflows_is_refused_by_name_unless_it_was_infinite() {
    let cast_f32 = |values: &[f32], dtype| cast("w", &floats(values), dtype);
    let infinite = cast_f32(&[f32::INFINITY, f32::NEG_INFINITY], DType::F16).unwrap();
    assert_eq!(infinite, [f16::INFINITY, f16::NEG_INFINITY].map(f16::to_le_bytes).concat());
    let nan = cast_f32(&[f32::NAN], DType::F16).unwrap();
    assert!(f16::from_le_bytes(nan[..].try_into().unwrap()).is_nan());
    for (values, dtype, number) in
        [([1.0, -65520.0], DType::F16, "6.552e4"), ([1.0, f32::MAX], DType::BF16, "3.4028234663852886e38")]
    {
        let message = cast_f32(&values, dtype).unwrap_err().to_string();
        assert!(message.contains("tensor `w`") && message.contains(number), "{message}");
    }
    let wide = tensor(DType::F64, [1e300f64.to_le_bytes()]);
    assert!(cast("w", &wide, DType::F32).unwrap_err().to_string().contains("1e300"));
    // The largest that still rounds down.
    assert_eq!(cast_f32(&[65519.996], DType::F16).unwrap(), f16::MAX.to_le_bytes()[..]);
}

#[test]
fn every_f32_pattern_rounds_as_half_does() {
    let values: Vec<f32> =
        (0..1u32 << 17).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9))).filter(|x| x.abs() < 6e4).collect();
    let f16s: Vec<u8> = values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
    assert_eq!(cast("w", &floats(&values), DType::F16).unwrap(), f16s);
    let bf16s: Vec<u8> = values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
    assert_eq!(cast("w", &floats(&values), DType::BF16).unwrap(), bf16s);
    // A tie that bits far below decide.
    let above_tie = f32::from_bits(0x3f80_8001);
    assert_eq!(cast("w", &floats(&[above_tie]), DType::BF16).unwrap(), bf16::from_bits(0x3f81).to_le_bytes()[..]);
}

#[test]
fn a_conversion_that_fails_leaves_the_target_as_it_was() {
    let source = tempfile::tempdir().unwrap();
    let tensors = BTreeMap::from([("a".to_owned(), floats(&[1.0])), ("b".to_owned(), floats(&[1e30]))]);
    write_pytorch(source.path(), &tensors, MAX_SHARD_SIZE).unwrap();
    fs::write(source.path().join("config.json"), "{}").unwrap();
    let target = tempfile::tempdir().unwrap();
    fs::write(target.path().join("model.safetensors"), "old").unwrap();
    let options = ConvertOptions { dtype: Some(DType::F16), force: true, ..Default::default() };
    let error = run(source.path(), target.path(), &options).unwrap_err();
    assert!(matches!(&error, Error::Tensor { tensor, .. } if tensor == "b"), "{error}");
    assert_eq!(fs::read(target.path().join("model.safetensors")).unwrap(), b"old");
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 1);
}

#[test]
fn the_target_is_another_folder_and_keeps_its_weights_unless_forced() {
    let source = source();
    let error = run(source.path(), source.path(), &ConvertOptions { force: true, ..Default::default() }).unwrap_err();
    assert!(matches!(&error, Error::Input { what, .. } if what == "target"), "{error}");
    let file = source.path().join("model.safetensors.index.json");
    assert!(run(&file, source.path(), &ConvertOptions::default()).is_err());

    let target = tempfile::tempdir().unwrap();
    fs::write(target.path().join("model.safetensors"), "old").unwrap();
    let error = run(source.path(), target.path(), &options(Format::PyTorch, None)).unwrap_err();
    assert!(error.to_string().contains("`model.safetensors` already"), "{error}");
    // The old weights would win over the new ones.
    run(source.path(), target.path(), &ConvertOptions { force: true, ..options(Format::PyTorch, None) }).unwrap();
    assert!(!target.path().join("model.safetensors").exists());
    assert_eq!(open(target.path()).unwrap().len(), 3);

    let error = run(source.path(), target.path(), &options(Format::Safetensors, Some(DType::I64))).unwrap_err();
    assert_eq!(error.to_string(), "dtype: i64, expected f32, bf16 or f16");
}

#[test]
fn one_file_is_a_source_without_companions() {
    let source = source();
    let target = tempfile::tempdir().unwrap();
    let index = source.path().join("model.safetensors.index.json");
    let report =
        run(&index, target.path(), &ConvertOptions { max_shard_size: 16, ..options(Format::PyTorch, None) }).unwrap();
    assert!(report.companions.is_empty());
    assert_eq!(report.files.len(), 4);
    assert_eq!(open(&report.files[3]).unwrap().len(), 3);
}

#[test]
fn a_file_that_changed_on_the_way_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let stored = floats(&[1.0, 2.0]);
    let planned = [Planned::stored("w", &stored)];
    let expected = BTreeMap::from([("w", &planned[0])]);
    for format in Format::ALL {
        let staged = stage(folder.path(), format, &planned, MAX_SHARD_SIZE, &mut |_, _| ()).unwrap();
        verify(&staged.files[0], format, &expected).unwrap();
        let path = &staged.files[0].path;
        let mut bytes = fs::read(path).unwrap();
        let at = bytes.windows(8).position(|w| w == &stored.bytes[..]).unwrap();
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
        let error = verify(&staged.files[0], format, &expected).unwrap_err();
        assert!(matches!(&error, Error::Tensor { tensor, .. } if tensor == "w"), "{error}");
    }
}
