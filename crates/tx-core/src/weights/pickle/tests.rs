use std::io::{Cursor, Write};

use burn::tensor::{BoolStore, DType};
use half::{bf16, f16};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::*;

/// Pickle fragments, named as `pickletools` names them.
fn text(s: &str) -> Vec<u8> {
    [b"X", &(s.len() as u32).to_le_bytes()[..], s.as_bytes()].concat()
}

fn int(n: i64) -> Vec<u8> {
    [&[0x8a, 8][..], &n.to_le_bytes()].concat()
}

fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(", items.concat().as_slice(), b"t"].concat()
}

fn ints(numbers: &[i64]) -> Vec<u8> {
    tuple(&numbers.iter().map(|&n| int(n)).collect::<Vec<_>>())
}

fn global(name: &str) -> Vec<u8> {
    let (module, name) = name.rsplit_once('.').unwrap();
    format!("c{module}\n{name}\n").into_bytes()
}

fn call(name: &str, args: &[Vec<u8>]) -> Vec<u8> {
    [global(name), tuple(args), b"R".to_vec()].concat()
}

fn storage(class: &str, key: &str, len: i64) -> Vec<u8> {
    [tuple(&[text("storage"), global(class), text(key), text("cpu"), int(len)]), b"Q".to_vec()].concat()
}

/// A view of a storage of `len` floats.
fn tensor(len: i64, offset: i64, sizes: &[i64], strides: &[i64]) -> Vec<u8> {
    let hooks = call("collections.OrderedDict", &[]);
    let args = [storage("torch.FloatStorage", "0", len), int(offset), ints(sizes), ints(strides), vec![0x89], hooks];
    call("torch._utils._rebuild_tensor_v2", &args)
}

/// `{"w": value}`.
fn dict(value: &[u8]) -> Vec<u8> {
    [b"}", text("w").as_slice(), value, b"s"].concat()
}

fn pickle(body: &[u8]) -> Vec<u8> {
    [b"\x80\x02", body, b"."].concat()
}

fn zip(files: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files {
        writer.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// An archive with this pickle and the floats 0, 1, … 5.
fn archive(body: &[u8]) -> Vec<u8> {
    let floats: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
    zip(&[("a/data.pkl", &pickle(body)), ("a/data/0", &floats)], CompressionMethod::Stored)
}

fn read_bytes(bytes: &[u8]) -> Result<BTreeMap<String, StoredTensor>> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    read(file.path())
}

/// The message of the error; its type must be one that names the file.
fn refusal(bytes: &[u8]) -> String {
    match read_bytes(bytes) {
        Err(e @ (Error::Malformed { .. } | Error::Tensor { .. })) => e.to_string(),
        other => panic!("expected a refusal, found {other:?}"),
    }
}

fn floats(tensor: &StoredTensor) -> Vec<f32> {
    tensor.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn recorded(name: &str) -> BTreeMap<String, StoredTensor> {
    read(&Path::new("../../tests/data/pickle").join(name)).unwrap()
}

#[test]
fn reads_what_torch_writes() {
    for file in ["archive.bin", "plain.bin", "wrapped.bin"] {
        let tensors = recorded(file);
        assert_eq!(tensors.len(), 14, "{file}");
        let get = |name: &str| tensors.get(name).unwrap_or_else(|| panic!("{file}: {name}"));
        let base: Vec<f32> = (0..12).map(|i| i as f32 / 8.0).collect();
        assert_eq!((floats(get("base")), get("base").shape.as_slice()), (base.clone(), &[3, 4][..]));
        assert_eq!(floats(get("tied")), base);
        let transposed: Vec<f32> = (0..12).map(|i| base[i % 3 * 4 + i / 3]).collect();
        assert_eq!((floats(get("transposed")), get("transposed").shape.as_slice()), (transposed, &[4, 3][..]));
        assert_eq!(floats(get("row")), &base[4..8]);
        assert_eq!(floats(get("column")), [base[2], base[6], base[10]]);
        assert_eq!(floats(get("expanded")), [1.5, 1.5, 1.5, 2.5, 2.5, 2.5]);
        assert_eq!(
            (get("scalar").dtype, get("scalar").shape.len(), &get("scalar").bytes[..]),
            (DType::I64, 0, &7i64.to_le_bytes()[..])
        );
        assert_eq!((get("empty").shape.as_slice(), get("empty").bytes.len()), (&[0, 4][..], 0));
        assert_eq!(floats(get("parameter")), [0.25, -0.25]);
        let halves = |one: [u8; 2], two: [u8; 2], three: [u8; 2]| [one, two, three].concat();
        let bf = |x: f32| bf16::from_f32(x).to_le_bytes();
        assert_eq!((get("bf16").dtype, &get("bf16").bytes[..]), (DType::BF16, &halves(bf(1.0), bf(-2.0), bf(3.5))[..]));
        let f = |x: f32| f16::from_f32(x).to_le_bytes();
        assert_eq!((get("f16").dtype, &get("f16").bytes[..]), (DType::F16, &halves(f(1.0), f(-2.0), f(3.5))[..]));
        let i32s: Vec<u8> = [1i32, 3, -2, -4].iter().flat_map(|i| i.to_le_bytes()).collect();
        assert_eq!((get("i32").dtype, &get("i32").bytes[..]), (DType::I32, &i32s[..]));
        assert_eq!(&get("u8").bytes[..], [0, 255]);
        assert_eq!((get("bool").dtype, &get("bool").bytes[..]), (DType::Bool(BoolStore::Native), &[1, 0][..]));
    }
}

#[test]
fn stored_tensors_are_views_and_tied_ones_the_same_view() {
    let tensors = recorded("archive.bin");
    let address = |name: &str| tensors[name].bytes.as_ptr() as usize;
    assert_eq!(address("base"), address("tied"));
    assert_eq!(address("row"), address("base") + 16);
}

#[test]
fn inflates_compressed_archives() {
    let floats_in: Vec<u8> = (0..600).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let body = dict(&tensor(600, 0, &[600], &[1]));
    let bytes = zip(&[("a/data.pkl", &pickle(&body)), ("a/data/0", &floats_in)], CompressionMethod::Deflated);
    assert_eq!(&read_bytes(&bytes).unwrap()["w"].bytes[..], floats_in);
}

#[test]
fn reads_tensors_with_attributes_and_new_dtypes() {
    let plain = tensor(6, 1, &[2, 2], &[2, 1]);
    let args = plain[global("torch._utils._rebuild_tensor_v2").len()..plain.len() - 1].to_vec();
    let with_attributes = call(
        "torch._tensor._rebuild_from_type_v2",
        &[global("torch._utils._rebuild_tensor_v2"), global("torch.Tensor"), args, b"}".to_vec()],
    );
    assert_eq!(floats(&read_bytes(&archive(&dict(&with_attributes))).unwrap()["w"]), [1.0, 2.0, 3.0, 4.0]);

    let untyped = storage("torch.storage.UntypedStorage", "0", 24);
    let args = [untyped, int(2), ints(&[3]), ints(&[1]), vec![0x89], b"N".to_vec(), global("torch.uint16")];
    let tensors = read_bytes(&archive(&dict(&call("torch._utils._rebuild_tensor_v3", &args)))).unwrap();
    assert_eq!((tensors["w"].dtype, &tensors["w"].bytes[..]), (DType::U16, &[0, 0, 0x80, 0x3f, 0, 0][..]));
}

#[test]
fn refuses_every_way_to_call_something() {
    let arg = tuple(&[text("true")]);
    let new = |name: &str, end: &[u8]| [global(name).as_slice(), &arg, end].concat();
    let stack_global =
        |module: &str, name: &str| [text(module), text(name), b"\x93".to_vec(), arg.clone(), b"R".to_vec()].concat();
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("REDUCE", new("os.system", b"R"), "`os.system`"),
        ("REDUCE", new("posix.system", b"R"), "`posix.system`"),
        ("NEWOBJ", new("subprocess.Popen", b"\x81"), "`subprocess.Popen`"),
        ("NEWOBJ_EX", [new("collections.OrderedDict", b""), b"}\x92".to_vec()].concat(), "opcode 0x92"),
        ("STACK_GLOBAL", stack_global("os", "system"), "`os.system`"),
        ("STACK_GLOBAL", stack_global("builtins", "eval"), "`builtins.eval`"),
        ("STACK_GLOBAL of numbers", [int(1), int(2), b"\x93".to_vec()].concat(), "two strings"),
        ("INST", [&b"("[..], &text("true"), b"ios\nsystem\n"].concat(), "`os.system`"),
        ("INST", b"(icollections\nOrderedDict\n".to_vec(), "INST"),
        ("OBJ", [b"(".to_vec(), global("os.system"), text("true"), b"o".to_vec()].concat(), "`os.system`"),
        ("OBJ", [b"(".to_vec(), global("collections.OrderedDict"), b"o".to_vec()].concat(), "opcode 0x6f"),
        ("BUILD", [global("torch.Tensor"), b"}b".to_vec()].concat(), "the state of a class or function"),
        ("BUILD of a tensor", [tensor(6, 0, &[6], &[1]), b")b".to_vec()].concat(), "the state of a tensor"),
        ("EXT1", vec![0x82, 1], "opcode 0x82"),
        ("PERSID", b"P0\n".to_vec(), "opcode 0x50"),
        ("BINPERSID", [tuple(&[text("module"), global("torch.Tensor")]), b"Q".to_vec()].concat(), "persistent id"),
        ("a call of a string", [text("system"), b")R".to_vec()].concat(), "a string is called"),
        ("a call of a class that is only named", call("torch.Tensor", &[]), "TensorType is called"),
        (
            "a nested attribute",
            call(
                "torch._tensor._rebuild_from_type_v2",
                &[global("torch._tensor._rebuild_from_type_v2"), global("torch.Tensor"), b")".to_vec()],
            ),
            "RebuildFromType",
        ),
        ("_load_from_bytes", call("torch.storage._load_from_bytes", &[]), "`torch.storage._load_from_bytes`"),
        ("a dotted name", b"ctorch\n_utils._rebuild_tensor_v2\n".to_vec(), "`torch._utils._rebuild_tensor_v2`"),
        ("a name with control characters", b"cos\x1b[2J\nsystem\n".to_vec(), "`os\\u{1b}[2J.system`"),
        ("an endless name", [b"c".to_vec(), vec![b'x'; 10_000]].concat(), "name of a class"),
    ];
    for (what, body, expected) in table {
        let message = refusal(&archive(&dict(&body)));
        assert!(message.contains(expected), "{what}: {message}");
    }
}

#[test]
fn refuses_broken_pickles() {
    let deep = |open: &[u8], close: &[u8]| [open.repeat(100_000), close.repeat(100_000)].concat();
    let bomb = [b"]".to_vec(), b"2".repeat(4_000_001)].concat();
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", vec![], "the stack is empty"),
        ("an empty stack", b"0".to_vec(), "the stack is empty"),
        ("a pop through a mark", b"N(0".to_vec(), "the stack is empty"),
        ("a tuple without a mark", b"t".to_vec(), "was not begun"),
        ("a long string", b"X\xff\xff\xff\xffabc".to_vec(), "4294967295 bytes expected"),
        ("a longer string", b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc".to_vec(), "18446744073709551615 bytes expected"),
        ("a long integer", b"\x8b\xff\xff\xff\x7f".to_vec(), "2147483647 bytes expected"),
        ("an unset memo", b"h\x07".to_vec(), "memo 7"),
        ("a far memo", b"Nr\xff\xff\xff\xff0j\xfe\xff\xff\xff".to_vec(), "memo 4294967294"),
        ("nested lists", deep(b"]", b"a"), "deeper than 128"),
        ("nested tuples", deep(b"", b"\x85")[..].to_vec(), "the stack is empty"),
        ("nested tuples around a value", [b"N".to_vec(), b"\x85".repeat(1000)].concat(), "deeper than 128"),
        ("nested marks", deep(b"(", b"t"), "deeper than 128"),
        ("a list in itself", [b"]".to_vec(), b"q\x00h\x00a".repeat(200)].concat(), "deeper than 128"),
        ("a memo bomb", bomb, "opcodes"),
        ("an odd dict", b"}(NNNu".to_vec(), "without a value"),
        ("a key in a list", b"]NNs".to_vec(), "a key is set in a list"),
        ("an item in a dict", b"}Na".to_vec(), "is given to a dict"),
        ("an OrderedDict of numbers", call("collections.OrderedDict", &[ints(&[1, 2])]), "pairs"),
        ("a list", b"]".to_vec(), "holds a list"),
        ("a tensor", tensor(6, 0, &[6], &[1]), "holds a tensor"),
        (
            "two wrappers",
            [b"}".to_vec(), text("model"), b"}s".to_vec(), text("state_dict"), b"}s".to_vec()].concat(),
            "more than one",
        ),
        ("a number for a key", b"}K\x01Ns".to_vec(), "a key of the state dict is an integer"),
        ("a number for a tensor", dict(b"K\x01"), "tensor `w`: is an integer"),
        (
            "a name of 5000 bytes",
            [b"}".to_vec(), text(&"x".repeat(5000)), tensor(6, 0, &[6], &[1]), b"s".to_vec()].concat(),
            "4096 bytes",
        ),
        (
            "a name that is not UTF-8",
            [b"}X\x01\x00\x00\x00\xff".to_vec(), tensor(6, 0, &[6], &[1]), b"s".to_vec()].concat(),
            "UTF-8",
        ),
    ];
    for (what, body, expected) in table {
        let message = refusal(&archive(&body));
        assert!(message.contains(expected) && message.len() < 1000, "{what}: {message}");
    }
    assert!(
        refusal(&zip(&[("a/data.pkl", b"\x80\x02N")], CompressionMethod::Stored)).contains("1 bytes expected, 0 left")
    );
    assert!(
        refusal(&zip(&[("a/data.pkl", b"\x80\x01N.")], CompressionMethod::Stored)).contains("protocol 2, 3, 4 or 5")
    );
    assert!(
        refusal(&zip(&[("a/data.pkl", b"\x80\x09N.")], CompressionMethod::Stored)).contains("protocol 2, 3, 4 or 5")
    );
}

#[test]
fn refuses_tensors_that_do_not_fit_their_storage() {
    let big = i64::MAX;
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("one element too many", tensor(6, 0, &[7], &[1]), "does not fit its storage of 24 bytes"),
        ("an offset too far", tensor(6, 1, &[6], &[1]), "does not fit"),
        ("a stride too far", tensor(6, 0, &[2, 2], &[5, 1]), "does not fit"),
        ("a storage that is shorter than claimed", tensor(7, 0, &[7], &[1]), "claims 7 elements"),
        ("a storage that overflows", tensor(big, 0, &[6], &[1]), "claims 9223372036854775807 elements"),
        ("an offset that overflows", tensor(6, big, &[6], &[1]), "does not fit"),
        ("strides that overflow", tensor(6, 0, &[3, 3], &[big, big]), "does not fit"),
        ("a shape that overflows", tensor(6, 0, &[big, big, 4], &[0, 0, 0]), "overflows"),
        ("a shape of 2^64 / 4", tensor(6, 0, &[1 << 62], &[1]), "overflows"),
        ("an empty shape that overflows", tensor(6, 0, &[big, big, 0], &[0, 0, 0]), "overflows"),
        ("a repetition", tensor(6, 0, &[1 << 40], &[0]), "repeats elements"),
        ("a negative size", tensor(6, 0, &[-1], &[1]), "negative number: -1"),
        ("a negative stride", tensor(6, 5, &[6], &[-1]), "negative number: -1"),
        ("a negative offset", tensor(6, -4, &[6], &[1]), "negative number: -4"),
        ("a negative storage", tensor(-6, 0, &[6], &[1]), "negative number: -6"),
        ("nine axes", tensor(6, 0, &[1; 9], &[1; 9]), "9 axes"),
        ("sizes without strides", tensor(6, 0, &[2, 3], &[1]), "2 sizes and 1 strides"),
    ];
    for (what, body, expected) in table {
        let message = refusal(&archive(&dict(&body)));
        assert!(message.contains(expected), "{what}: {message}");
    }
    // Beside an axis of size one any stride is right, and so is any number of empty axes.
    let odd = read_bytes(&archive(&dict(&tensor(6, 0, &[2, 1, 3], &[1, big, 2])))).unwrap();
    assert_eq!(floats(&odd["w"]), [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]);
    let odd = read_bytes(&archive(&dict(&tensor(6, 0, &[2, 1], &[2, big])))).unwrap();
    assert_eq!(floats(&odd["w"]), [0.0, 2.0]);

    let elsewhere = storage("torch.FloatStorage", "../0", 6);
    let args = [elsewhere, int(0), ints(&[6]), ints(&[1])];
    let message = refusal(&archive(&dict(&call("torch._utils._rebuild_tensor", &args))));
    assert!(message.contains("zip entry `a/data/../0`: not in the archive"), "{message}");
}

#[test]
fn refuses_broken_archives() {
    let body = pickle(&dict(&tensor(6, 0, &[6], &[1])));
    let good = archive(&dict(&tensor(6, 0, &[6], &[1])));
    assert!(read_bytes(&good).is_ok());
    for len in 0..good.len() {
        refusal(&good[..len]);
    }
    let find = |bytes: &[u8], what: &[u8], from: usize| {
        from + bytes[from..].windows(what.len()).position(|w| w == what).unwrap()
    };
    let directory = find(&good, b"PK\x01\x02", 0);
    let second = find(&good, b"PK\x01\x02", directory + 1);
    let end = find(&good, b"PK\x05\x06", second);
    let patched = |at: usize, bytes: &[u8]| {
        let mut patched = good.clone();
        patched[at..at + bytes.len()].copy_from_slice(bytes);
        patched
    };
    let zeros = vec![0; 1 << 20];
    let stored = |files: &[(&str, &[u8])]| zip(files, CompressionMethod::Stored);
    let bomb = zip(&[("a/data.pkl", &body), ("a/data/0", &zeros)], CompressionMethod::Deflated);
    let mut inflates_short = zip(&[("a/data.pkl", &body), ("a/data/0", &[7; 24])], CompressionMethod::Deflated);
    let at = find(&inflates_short, b"PK\x01\x02", find(&inflates_short, b"PK\x01\x02", 0) + 1) + 24;
    inflates_short[at] = 200;
    let mut inflates_long = inflates_short.clone();
    inflates_long[at] = 10;
    let mut twice = stored(&[("a/data/0", &[0; 24]), ("a/data/1", &[0; 24])]);
    let name = twice.windows(8).rposition(|w| w == b"a/data/1").unwrap();
    twice[name + 7] = b'0';
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("no pickle", stored(&[("a/other", &body)]), "without `data.pkl`"),
        ("two pickles", stored(&[("a/data.pkl", &body), ("b/data.pkl", &body)]), "more than one `data.pkl`"),
        ("no storage", stored(&[("a/data.pkl", &body)]), "zip entry `a/data/0`: not in the archive"),
        ("a short storage", stored(&[("a/data.pkl", &body), ("a/data/0", &[0; 23])]), "has 23 bytes"),
        ("big-endian", stored(&[("a/data.pkl", &body), ("a/data/0", &[0; 24]), ("a/byteorder", b"big")]), "big-endian"),
        ("a bomb", bomb, "more than 100 times as many"),
        ("inflates to less", inflates_short, "claims to inflate to 200 bytes"),
        ("inflates to more", inflates_long, "claims to inflate to 10 bytes"),
        ("a changed pickle", patched(60, b"z"), "data.pkl"),
        ("a count that lies", patched(end + 10, &[9, 0]), "claims 9 entries, but has 2"),
        ("a directory that is elsewhere", patched(end + 16, &[0, 0, 0, 0x7f]), "claims bytes"),
        ("a 64-bit directory that is not there", patched(end + 16, &[0xff; 4]), "no 64-bit directory"),
        (
            "a size that lies",
            patched(second + 20, &[0xf0, 0, 0, 0, 0xf0, 0, 0, 0]),
            "zip entry `a/data/0`: claims bytes",
        ),
        ("two sizes", patched(second + 20, &[23]), "two different sizes"),
        ("a size without its extension", patched(second + 20, &[0xff; 4]), "two different sizes"),
        ("a place that lies", patched(second + 42, &[1]), "where no file begins"),
        ("a place far outside", patched(second + 42, &[0xfe, 0xff, 0xff, 0xff]), "where no file begins"),
        ("another file's place", patched(second + 42, &[0, 0, 0, 0]), "another file begins"),
        ("an unknown method", patched(second + 10, &[14]), "compression method 14"),
        ("encryption", patched(second + 8, &[1]), "encrypted"),
        ("one name twice", twice, "`a/data/0` is there twice"),
    ];
    for (what, bytes, expected) in table {
        let message = refusal(&bytes);
        assert!(message.contains(expected), "{what}: {message}");
    }
}

#[test]
fn refuses_broken_plain_files() {
    let path = Path::new("../../tests/data/pickle/plain.bin");
    let good = std::fs::read(path).unwrap();
    for len in 0..good.len() {
        refusal(&good[..len]);
    }
    let start = [pickle(&[&[0x8a, 10][..], MAGIC].concat()), pickle(b"M\xe9\x03"), pickle(b"}")].concat();
    let object = pickle(&dict(&tensor(2, 0, &[2], &[1])));
    let keys = pickle(&[b"]".to_vec(), text("0"), b"a".to_vec()].concat());
    let file = |len: i64, bytes: usize| [&start[..], &object, &keys, &len.to_le_bytes(), &vec![0; bytes]].concat();
    assert_eq!(read_bytes(&file(2, 8)).unwrap()["w"].shape, [2]);
    let big_endian = pickle(&[b"}".to_vec(), text("little_endian"), b"\x89s".to_vec()].concat());
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a length that is too large", file(3, 8), "claims 3 elements, but the file has 8 bytes left"),
        ("a length that is too small", file(1, 8), "claims 2 elements of storage `0`, which has 4 bytes"),
        ("a negative length", file(-1, 8), "claims -1 elements"),
        ("a length that overflows", file(i64::MAX, 8), "claims 9223372036854775807 elements"),
        ("no length", [&start[..], &object, &keys, &[0; 7]].concat(), "truncated"),
        ("no keys", [&start[..], &object, &pickle(b"]")].concat(), "storage `0` is not in the file"),
        (
            "a key without a tensor",
            [&start[..], &object, &pickle(&[b"]".to_vec(), text("1"), b"a".to_vec()].concat())].concat(),
            "no tensor has it",
        ),
        ("keys that are numbers", [&start[..], &object, &pickle(b"]Na")].concat(), "list of the storages"),
        ("another pickle", [object.clone(), object.clone()].concat(), "not one of PyTorch"),
        ("big-endian", [&start[..start.len() - 4], &big_endian, &object].concat(), "big-endian"),
        ("a safetensors file", [&16u64.to_le_bytes()[..], b"{}              "].concat(), "safetensors"),
        ("a pointer of LFS", b"version https://git-lfs.github.com/spec/v1\n".to_vec(), "LFS"),
        ("text", b"<!DOCTYPE html>".to_vec(), "not a PyTorch checkpoint"),
    ];
    for (what, bytes, expected) in table {
        let message = refusal(&bytes);
        assert!(message.contains(expected), "{what}: {message}");
    }
}

#[test]
fn no_changed_byte_panics() {
    for name in ["archive.bin", "plain.bin", "wrapped.bin"] {
        let path = Path::new("../../tests/data/pickle").join(name);
        let good = std::fs::read(path).unwrap();
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        for _ in 0..3000 {
            let mut bytes = good.clone();
            for _ in 0..1 + state % 3 {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                let at = (state >> 33) as usize % bytes.len();
                bytes[at] = (state >> 16) as u8;
            }
            if let Ok(tensors) = read_bytes(&bytes) {
                tensors.values().for_each(|t| assert_eq!(t.elements() * t.dtype.size(), t.bytes.len()));
            }
        }
    }
}
