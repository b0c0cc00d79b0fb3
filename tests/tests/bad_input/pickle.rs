//! `pytorch_model.bin`: archives that are broken, and pickles that call functions.

use crate::{INFO, Row};

const FILE: &str = "pytorch_model.bin";
/// What a pickle would do if it were executed: the test finds the file that it leaves.
const COMMAND: &str = "touch executed";

pub fn rows() -> Vec<Row> {
    let row = |name: &str, expected: &[&str], bytes: Vec<u8>| {
        Row::new(name, INFO, &[&[FILE][..], expected].concat(), move |f| {
            f.remove("model.safetensors");
            f.write(FILE, &bytes);
        })
    };
    let calls = |name: &str, function: Vec<u8>, argument: &str, expected: &str| {
        let call = [function, tuple(&[text(argument)]), b"R".to_vec()].concat();
        row(name, &[expected, "not allowed"], archive(&dict(&call)))
    };
    let python = format!("__import__('os').system('{COMMAND}')");
    let whole = archive(&dict(&tensor(&[4], &[1])));
    let good = whole.clone();
    vec![
        Row::good("archive", INFO, move |f| {
            f.remove("model.safetensors");
            f.write(FILE, &good);
        }),
        row("empty file", &["empty"], vec![]),
        row("text file", &["not a PyTorch checkpoint"], b"<!DOCTYPE html><html></html>".to_vec()),
        row("pointer of Git LFS", &["Git LFS"], b"version https://git-lfs.github.com/spec/v1\n".to_vec()),
        Row::new("safetensors under this name", INFO, &[FILE, "safetensors"], |f| f.rename("model.safetensors", FILE)),
        Row::new("zeros", INFO, &[FILE, "not a PyTorch checkpoint"], |f| {
            f.remove("model.safetensors");
            f.write_zeros(FILE, 1 << 30);
        }),
        row("truncated archive", &["truncated"], whole[..whole.len() / 2].to_vec()),
        row("archive without its last byte", &["truncated"], whole[..whole.len() - 1].to_vec()),
        row("archive without a pickle", &["data.pkl"], zip(&[("a/data/0", &[0; 16])])),
        row(
            "archive without the storage",
            &["`a/data/0`"],
            zip(&[("a/data.pkl", &pickle(&dict(&tensor(&[4], &[1]))))]),
        ),
        row("storage that is too short", &["`w`", "storage `0`", "15 bytes"], {
            zip(&[("a/data.pkl", &pickle(&dict(&tensor(&[4], &[1])))), ("a/data/0", &[0; 15])])
        }),
        row("pickle with a changed byte", &["data.pkl"], {
            let mut bytes = whole.clone();
            // Behind the local header and the name of the first entry.
            bytes[30 + "a/data.pkl".len() + 12] ^= 1;
            bytes
        }),
        row("empty pickle", &["pickle"], zip(&[("a/data.pkl", &[]), ("a/data/0", &[0; 16])])),
        row("pickle that ends early", &["pickle"], zip(&[("a/data.pkl", b"\x80\x02}"), ("a/data/0", &[0; 16])])),
        row("pickle of a list", &["a list", "state dict"], archive(b"]")),
        row(
            "pickle of lists in lists",
            &["deeper than 128"],
            archive(&[b"]".repeat(100_000), b"a".repeat(99_999)].concat()),
        ),
        row("number for a tensor", &["`w`", "an integer"], archive(&dict(b"K\x01"))),
        row("shape beyond the storage", &["`w`", "[5]"], archive(&dict(&tensor(&[5], &[1])))),
        row("shape that overflows", &["`w`", "overflows"], archive(&dict(&tensor(&[1 << 62, 16], &[0, 0])))),
        row("shape that repeats one element", &["`w`", "repeats"], archive(&dict(&tensor(&[1 << 40], &[0])))),
        row("negative size", &["negative", "-4"], archive(&dict(&tensor(&[-4], &[1])))),
        row("nine axes", &["9 axes"], archive(&dict(&tensor(&[1; 9], &[1; 9])))),
        calls("os.system by GLOBAL and REDUCE", global("os", "system"), COMMAND, "`os.system`"),
        calls("posix.system by GLOBAL and REDUCE", global("posix", "system"), COMMAND, "`posix.system`"),
        calls("os.system by STACK_GLOBAL", stack_global("os", "system"), COMMAND, "`os.system`"),
        calls("builtins.eval by STACK_GLOBAL", stack_global("builtins", "eval"), &python, "`builtins.eval`"),
        calls("builtins.exec by GLOBAL and REDUCE", global("builtins", "exec"), &python, "`builtins.exec`"),
        row(
            "os.system by INST",
            &["`os.system`"],
            archive(&dict(&[&b"("[..], &text(COMMAND), b"ios\nsystem\n"].concat())),
        ),
        row("os.system by OBJ", &["`os.system`"], {
            archive(&dict(&[b"(".to_vec(), global("os", "system"), text(COMMAND), b"o".to_vec()].concat()))
        }),
        row("subprocess.Popen by NEWOBJ", &["`subprocess.Popen`"], {
            let arguments = tuple(&[tuple(&[text("touch"), text("executed")])]);
            archive(&dict(&[global("subprocess", "Popen"), arguments, b"\x81".to_vec()].concat()))
        }),
        row("function with control characters in its name", &["not allowed"], {
            archive(&dict(&[global("os\u{1b}[2J\r", "system"), tuple(&[text(COMMAND)]), b"R".to_vec()].concat()))
        }),
    ]
}

/// Fragments of pickles, by the names of `pickletools`.
fn text(text: &str) -> Vec<u8> {
    [&b"X"[..], &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

fn int(number: i64) -> Vec<u8> {
    [&[0x8a, 8][..], &number.to_le_bytes()].concat()
}

fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [&b"("[..], &items.concat(), b"t"].concat()
}

fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

fn stack_global(module: &str, name: &str) -> Vec<u8> {
    [text(module), text(name), vec![0x93]].concat()
}

/// A view of a storage of four floats.
fn tensor(sizes: &[i64], strides: &[i64]) -> Vec<u8> {
    let ints = |numbers: &[i64]| tuple(&numbers.iter().map(|&n| int(n)).collect::<Vec<_>>());
    let storage = tuple(&[text("storage"), global("torch", "FloatStorage"), text("0"), text("cpu"), int(4)]);
    let storage = [storage, b"Q".to_vec()].concat();
    let hooks = [global("collections", "OrderedDict"), b")R".to_vec()].concat();
    let arguments = tuple(&[storage, int(0), ints(sizes), ints(strides), vec![0x89], hooks]);
    [global("torch._utils", "_rebuild_tensor_v2"), arguments, b"R".to_vec()].concat()
}

/// `{"w": value}`
fn dict(value: &[u8]) -> Vec<u8> {
    [&b"}"[..], &text("w"), value, b"s"].concat()
}

fn pickle(body: &[u8]) -> Vec<u8> {
    [&b"\x80\x02"[..], body, b"."].concat()
}

/// An archive with this pickle and one storage of 16 bytes.
fn archive(body: &[u8]) -> Vec<u8> {
    zip(&[("a/data.pkl", &pickle(body)), ("a/data/0", &[0; 16])])
}

/// A zip archive of files that are not compressed.
fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let short = |n: usize| (n as u16).to_le_bytes();
    let long = |n: usize| (n as u32).to_le_bytes();
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for &(name, bytes) in files {
        let place = out.len();
        // Version, flags, method, time, date, sum, both sizes, length of the name and of the extra field.
        let fields = [
            &short(20)[..],
            &[0; 8],
            &crc32(bytes).to_le_bytes(),
            &long(bytes.len()),
            &long(bytes.len()),
            &short(name.len()),
            &[0; 2],
        ]
        .concat();
        out.extend([&b"PK\x03\x04"[..], &fields, name.as_bytes(), bytes].concat());
        // Its maker's version, the same fields, no comment, disk or attributes, its place.
        directory.extend([&b"PK\x01\x02"[..], &short(20), &fields, &[0; 10], &long(place), name.as_bytes()].concat());
    }
    let (start, count) = (out.len(), short(files.len()));
    let end = [&b"PK\x05\x06"[..], &[0; 4], &count, &count, &long(directory.len()), &long(start), &[0; 2]].concat();
    [out, directory, end].concat()
}

/// The check sum of zip archives.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc)))
}
