//! Packed tensors against what Python's functions make of them: the digests are those of its results.

use std::path::Path;

use super::*;

const E4M3: QuantValue = QuantValue::E4M3;
const FP8: Packing = Packing::Fp8 { block: None };

fn stored(dtype: DType, shape: &[usize], bytes: Vec<u8>) -> StoredTensor {
    StoredTensor { path: "memory".into(), dtype, shape: shape.to_vec(), bytes: bytes.into() }
}

fn floats_of(shape: &[usize], values: &[f32]) -> StoredTensor {
    stored(DType::F32, shape, values.iter().flat_map(|x| x.to_le_bytes()).collect())
}

fn checkpoint<const N: usize>(tensors: [(&str, StoredTensor); N]) -> Checkpoint {
    let tensors = tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect();
    Checkpoint::from_tensors(Path::new("memory"), tensors)
}

/// FNV-1a of the little-endian bytes.
fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Digests of a tensor in f32, bf16 and f16.
fn digests(packing: Packing, checkpoint: &Checkpoint, name: &str) -> [u64; 3] {
    let source = &packing.tensors(checkpoint)[name];
    assert!(source.is_float() && source.dtype() == DType::BF16, "{source}");
    [DType::F32, DType::BF16, DType::F16].map(|dtype| {
        let data = source.to_data(dtype);
        assert_eq!((data.dtype(), data.shape().as_slice()), (dtype, source.shape()));
        digest(data.as_bytes())
    })
}

/// Codes of e4m3 and e5m2 that are numbers.
fn codes(len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i * 53 + 3) % 120) as u8 | if i % 2 == 1 { 0x80 } else { 0 }).collect()
}

#[test]
fn every_code_is_the_number_that_python_reads() {
    let table = [
        (QuantValue::E4M3, 0xdad1_d9c5_0f74_9ca5, 2, [(0x01, 0.001953125), (0x38, 1.0), (0x7e, 448.0)]),
        (QuantValue::E5M2, 0x6c1e_56b6_fb09_c905, 6, [(0x01, 2f32.powi(-16)), (0x38, 0.5), (0x7b, 57344.0)]),
    ];
    for (value, expected, none, some) in table {
        let number = float8_number(float8(value)).unwrap();
        let numbers: [f32; 256] = std::array::from_fn(|code| number(code as u8));
        let numbers = numbers.map(|x| if x.is_nan() { f32::from_bits(0x7fc0_0000) } else { x });
        assert_eq!(digest(&numbers.map(f32::to_le_bytes).concat()), expected);
        assert_eq!(numbers.iter().filter(|x| x.is_nan()).count(), none);
        assert!(some.iter().all(|&(code, number)| numbers[code] == number && numbers[code + 128] == -number));
    }
    assert!(float8_number(DType::U8).is_none());
}

#[test]
fn mxfp4_is_what_python_makes_of_it() {
    let blocks: Vec<u8> = (0..192).map(|i| ((i * 37 + 11) % 256) as u8).collect();
    // The smallest and the largest exponents among them.
    let scales = vec![0, 1, 100, 126, 127, 128, 140, 254, 255, 120, 5, 124];
    let checkpoint = checkpoint([
        ("w_blocks", stored(DType::U8, &[2, 3, 2, 16], blocks)),
        ("w_scales", stored(DType::U8, &[2, 3, 2], scales)),
    ]);
    let tensors = Packing::Mxfp4.tensors(&checkpoint);
    assert_eq!(tensors.keys().collect::<Vec<_>>(), ["w"]);
    assert_eq!(tensors["w"].to_string(), "mxfp4 [2, 64, 3]");
    assert_eq!(tensors["w"].bytes(), checkpoint.bytes());
    let expected = [0xfa21_4e2f_02eb_4374, 0xce47_b83e_1c3b_9674, 0xd2ea_88e8_e1fa_4e93];
    assert_eq!(digests(Packing::Mxfp4, &checkpoint, "w"), expected);
    // Without the config's word for it, bytes are bytes.
    assert_eq!(Packing::Plain.tensors(&checkpoint).keys().collect::<Vec<_>>(), ["w_blocks", "w_scales"]);
}

#[test]
fn numbers_of_four_bits_are_all_sixteen() {
    let bytes: Vec<u8> = (0..16u8).map(|i| (2 * (i % 8)) | ((2 * (i % 8) + 1) << 4)).collect();
    let checkpoint = checkpoint([
        ("w_blocks", stored(DType::U8, &[1, 1, 1, 16], bytes)),
        ("w_scales", stored(DType::U8, &[1, 1, 1], vec![128])),
    ]);
    let values = Packing::Mxfp4.tensors(&checkpoint)["w"].to_data(DType::F32).try_to_vec::<f32>().unwrap();
    let positive = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0];
    let all: Vec<u32> = positive.iter().copied().chain(positive.map(|x: f32| -x)).map(f32::to_bits).collect();
    assert_eq!(values.into_iter().map(f32::to_bits).collect::<Vec<_>>(), [all.clone(), all].concat());
}

#[test]
fn fp8_in_blocks_that_sizes_are_no_multiples_of() {
    let block = Packing::Fp8 { block: Some([2, 3]) };
    let weight = || stored(float8(E4M3), &[5, 7], codes(35));
    let scales: Vec<f32> = (3..12).map(|i| i as f32 / 7.0).collect();
    let exponents = vec![127, 120, 130, 0, 127, 121, 119, 140, 125];
    let floats = checkpoint([("w", weight()), ("w_scale_inv", floats_of(&[3, 3], &scales))]);
    let expected = [0x6bdf_9626_e51c_8da8, 0x766a_c6b5_ddf2_2a32, 0xe32a_d226_75ba_3934];
    assert_eq!(digests(block, &floats, "w"), expected);
    let exponents = checkpoint([("w", weight()), ("w_scale_inv", stored(DType::U8, &[3, 3], exponents))]);
    let expected = [0xd2ec_12b3_cc29_f882, 0xaefb_5d4b_0d3e_5f5d, 0xecc1_d9f4_3bc7_dfc0];
    assert_eq!(digests(block, &exponents, "w"), expected);
}

#[test]
fn fp8_with_scales_whose_shape_tells_the_blocks() {
    let rows = [0.1f32, 0.2, 0.3, 0.4, 0.5];
    let rounded: Vec<u8> = rows.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
    let table: [(QuantValue, &[usize], StoredTensor, u64); 6] = [
        (E4M3, &[5, 7], stored(DType::BF16, &[5, 1], rounded), 0x94b6_1e8a_5fe9_1530),
        (E4M3, &[5, 7], floats_of(&[], &[0.3]), 0xfdcd_6105_f036_5028),
        (E4M3, &[5, 7], floats_of(&[1], &[0.3]), 0xfdcd_6105_f036_5028),
        (E4M3, &[7, 5], floats_of(&[1, 5], &rows), 0x5589_f9ce_4277_b182),
        (QuantValue::E5M2, &[5, 7], floats_of(&[1, 1], &[0.3]), 0x2305_a0b4_cd37_2181),
        (E4M3, &[2, 3, 4], floats_of(&[2, 1, 2], &rows[..4]), 0xbaab_09fc_a303_a637),
    ];
    for (value, shape, scales, expected) in table {
        let weight = stored(float8(value), shape, codes(shape.iter().product()));
        for suffix in ["_scale_inv", "_scale"] {
            let name = format!("w{suffix}");
            let checkpoint = checkpoint([("w", weight.clone()), (name.as_str(), scales.clone())]);
            assert_eq!(digests(FP8, &checkpoint, "w")[0], expected, "{shape:?} {:?}", scales.shape);
        }
    }
}

#[test]
fn what_is_not_packed_stays_as_it_is() {
    let weight = stored(float8(E4M3), &[2, 2], codes(4));
    let checkpoint = checkpoint([
        ("layer.bias", floats_of(&[2], &[1.0, 2.0])),
        ("layer.input_scale", floats_of(&[], &[1.0])),
        ("layer.weight", weight.clone()),
        ("layer.weight_scale", floats_of(&[], &[1.0])),
        ("other.input_scale", floats_of(&[], &[1.0])),
        ("other.weight", floats_of(&[1, 1], &[3.0])),
    ]);
    let tensors = FP8.tensors(&checkpoint);
    let names: Vec<_> = tensors.keys().collect();
    assert_eq!(names, ["layer.bias", "layer.weight", "other.input_scale", "other.weight"]);
    assert!(matches!(tensors["other.weight"], Source::Plain(_)));
    // Under no method, floats of eight bits are numbers like others.
    let plain = &Packing::Plain.tensors(&checkpoint)["layer.weight"];
    let values = plain.to_data(DType::F32).try_to_vec::<f32>().unwrap();
    assert_eq!(values, codes(4).into_iter().map(e4m3).collect::<Vec<_>>());
    assert!(plain.is_same(plain) && !plain.is_same(&tensors["layer.weight"]));
}

#[test]
fn matrices_keep_their_dtype_and_the_rest_has_that_of_activations() {
    let checkpoint = checkpoint([
        ("experts.down_proj", stored(DType::BF16, &[1, 1, 1], vec![0; 2])),
        ("conv.weight", stored(DType::BF16, &[1, 1, 1], vec![0; 2])),
        ("packed.weight", stored(float8(E4M3), &[1, 1], vec![0])),
        ("vector", stored(float8(E4M3), &[1], vec![0])),
        ("double", stored(DType::F64, &[1, 1], vec![0; 8])),
    ]);
    let tensors = Packing::Plain.tensors(&checkpoint);
    let loaded = |name: &str, weights: Option<DType>| tensors[name].loaded_dtype(name, weights, DType::F32);
    let names = ["experts.down_proj", "conv.weight", "packed.weight", "vector", "double"];
    assert_eq!(names.map(|name| loaded(name, None)), [DType::BF16, DType::F32, DType::BF16, DType::F32, DType::F32]);
    assert_eq!(loaded("packed.weight", Some(DType::F16)), DType::F16);
}

#[test]
fn parts_that_do_not_fit_are_named() {
    let block = Packing::Fp8 { block: Some([2, 3]) };
    let weight = |shape: &[usize]| ("w", stored(float8(E4M3), shape, vec![0; shape.iter().product()]));
    let ones = |shape: &[usize]| floats_of(shape, &vec![1.0; shape.iter().product()]);
    let bytes = |shape: &[usize]| stored(DType::U8, shape, vec![0; shape.iter().product()]);
    let table = [
        (FP8, checkpoint([weight(&[4, 4])]), "`w_scale_inv` is missing, expected the scales of `w`"),
        (block, checkpoint([weight(&[5, 7]), ("w_scale_inv", ones(&[2, 3]))]), "f32 [2, 3], expected [3, 3]"),
        (block, checkpoint([weight(&[5, 7]), ("w_scale_inv", ones(&[]))]), "f32 [], expected [3, 3]"),
        (FP8, checkpoint([weight(&[5, 7]), ("w_scale", ones(&[2, 1]))]), "divides [5, 7] evenly"),
        (FP8, checkpoint([weight(&[5, 7]), ("w_scale", ones(&[0, 1]))]), "divides [5, 7] evenly"),
        (FP8, checkpoint([weight(&[2, 4, 4]), ("w_scale", ones(&[3, 1, 1]))]), "divides [2, 4, 4] evenly"),
        (FP8, checkpoint([weight(&[4]), ("w_scale", ones(&[4]))]), "expected one number"),
        (FP8, checkpoint([weight(&[1, 1]), ("w_scale", stored(DType::I8, &[1], vec![0]))]), "i8 [1], expected f32"),
        (Packing::Mxfp4, checkpoint([("w_blocks", bytes(&[2, 3, 2, 16]))]), "`w_scales` is missing, expected u8 [2, 3"),
        (
            Packing::Mxfp4,
            checkpoint([("w_blocks", bytes(&[2, 3, 2, 16])), ("w_scales", bytes(&[2, 3, 1]))]),
            "`w_scales` is u8 [2, 3, 1], expected u8 [2, 3, 2]",
        ),
        (
            Packing::Mxfp4,
            checkpoint([("w_blocks", bytes(&[2, 3, 8])), ("w_scales", bytes(&[2, 3, 1]))]),
            "`w_blocks` is u8 [2, 3, 8], expected u8 [experts, rows, groups, 16]",
        ),
        (
            Packing::Mxfp4,
            checkpoint([("w_blocks", ones(&[1, 1, 1, 16])), ("w_scales", bytes(&[1, 1, 1]))]),
            "`w_blocks` is f32 [1, 1, 1, 16], expected u8",
        ),
    ];
    for (packing, checkpoint, expected) in table {
        let tensors = packing.tensors(&checkpoint);
        let Source::Broken(Mismatch { name, found, expected: right }) = &tensors["w"] else {
            panic!("{expected}: {tensors:?}");
        };
        let message = format!("`{name}` is {found}, expected {right}");
        assert!(message.contains(expected), "{message}, not {expected}");
    }
}

#[test]
fn the_config_names_the_method() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let packing = |json: &str| {
        std::fs::write(&path, format!(r#"{{"quantization_config": {json}}}"#)).unwrap();
        Packing::from_config(&Config::from_file(&path).unwrap())
    };
    let table = [
        ("null", Packing::Plain),
        (r#"{"quant_method": "mxfp4"}"#, Packing::Mxfp4),
        (r#"{"quant_method": "fp8"}"#, Packing::Fp8 { block: Some([128, 128]) }),
        (r#"{"quant_method": "fp8", "weight_block_size": [64, 32]}"#, Packing::Fp8 { block: Some([64, 32]) }),
        (r#"{"quant_method": "fp8", "weight_block_size": null}"#, FP8),
        (r#"{"quant_method": "fbgemm_fp8"}"#, FP8),
        (r#"{"quant_method": "compressed-tensors", "format": "float-quantized"}"#, FP8),
    ];
    for (json, expected) in table {
        assert_eq!(packing(json).unwrap(), expected, "{json}");
    }
    let table = [
        (r#"{"quant_method": "gptq"}"#, "`quantization_config.quant_method` is `gptq`, which is not supported"),
        (r#"{"load_in_4bit": true}"#, "is `missing`"),
        ("7", "is `missing`"),
        (
            r#"{"quant_method": "compressed-tensors", "format": "pack-quantized"}"#,
            "compressed-tensors (pack-quantized)",
        ),
        (r#"{"quant_method": "compressed-tensors"}"#, "(no format)"),
        (r#"{"quant_method": "fp8", "weight_block_size": [0, 128]}"#, "`quantization_config.weight_block_size`"),
        (r#"{"quant_method": "fp8", "weight_block_size": [128]}"#, "two integers from 1 to 2147483648"),
        (r#"{"quant_method": "fp8", "weight_block_size": 128}"#, "two integers"),
        (r#"{"quant_method": "fp8", "weight_block_size": [1e30, 1]}"#, "two integers"),
    ];
    for (json, expected) in table {
        let message = packing(json).unwrap_err().to_string();
        assert!(message.contains(expected), "{json}: {message}");
    }
}
