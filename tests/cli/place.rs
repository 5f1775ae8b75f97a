//! A folder to run `wgoal` in, with a small dataset named `data`, and readers for its output.

use assert_cmd::Command;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;
use tempfile::TempDir;

pub const IMAGES: u32 = 40;
/// The widths of the image and the text features.
pub const DIMS: [usize; 2] = [6, 5];
/// The images of each split.
pub const SPLITS: [(&str, std::ops::Range<u32>); 3] = [("train", 0..24), ("val", 24..32), ("test", 32..40)];

pub struct Place(TempDir);

/// The longest time of a command, on the busiest machine. A command that takes longer hangs.
pub const HANGS: Duration = Duration::from_secs(120);

pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Place {
    pub fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        write_dataset(&place.path("data"));
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// The tool in this folder, without the caller's environment variables for devices.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wgoal"));
        for name in ["WGPU_BACKEND", "WGPU_ADAPTER_NAME", "WGPU_POWER_PREF"] {
            command.env_remove(name);
        }
        command.current_dir(&self.0).timeout(HANGS);
        command
    }

    /// Starts the tool with `stream` as its standard output and standard error.
    pub fn start(&self, args: &str, stream: fn() -> Stdio) -> Child {
        std::process::Command::new(env!("CARGO_BIN_EXE_wgoal"))
            .args(args.split(' '))
            .current_dir(&self.0)
            .stdout(stream())
            .stderr(stream())
            .spawn()
            .unwrap()
    }

    pub fn run(&self, args: &str) -> Output {
        let output = self.command().args(args.split_whitespace()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        assert!(!stderr.contains("panicked"), "wgoal {args}\n{stderr}");
        Output { code: output.status.code().unwrap_or(-1), stdout, stderr }
    }

    /// The standard output of a command that must succeed.
    pub fn ok(&self, args: &str) -> String {
        let Output { code, stdout, stderr } = self.run(args);
        assert_eq!(code, 0, "wgoal {args}\n{stderr}");
        stdout
    }

    /// The single line of a command with `--json`.
    pub fn json(&self, args: &str) -> Value {
        let stdout = self.ok(args);
        assert_eq!((stdout.lines().count(), stdout.ends_with('\n')), (1, true), "wgoal {args}\n{stdout}");
        serde_json::from_str(&stdout).unwrap()
    }

    /// Runs `train data` on the CPU with small defaults into the folder `out`: plain training, unless a recipe is named,
    /// and no correction for hubs, unless it is named.
    pub fn train(&self, out: &str, args: &str) -> Value {
        let options = [("--epochs", "2"), ("--embed", "4"), ("--recipe", "goal"), ("--correction", "none")];
        let options = options.map(|(option, value)| default(args, option, value)).join(" ");
        self.json(&format!("train data --device cpu --batch 16 {options} --json --out {out} {args}"))
    }

    /// The lines of a run's metrics.jsonl.
    pub fn metrics(&self, out: &str) -> Vec<Value> {
        let text = String::from_utf8(self.read(&format!("{out}/metrics.jsonl"))).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// All files in the folder, recursively, with their contents.
    pub fn listing(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.0.path().to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let content = if path.is_dir() { Vec::new() } else { fs::read(&path).unwrap() };
                if path.is_dir() {
                    folders.push(path.clone());
                }
                found.insert(path.strip_prefix(self.0.path()).unwrap().to_path_buf(), content);
            }
        }
        found
    }

    /// The names in a folder, sorted.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Kills a run. Returns whether the kill ended it. A run that had ended before must have succeeded.
#[cfg(unix)]
pub fn kill(mut child: Child) -> bool {
    child.kill().unwrap();
    let status = child.wait().unwrap();
    let killed = std::os::unix::process::ExitStatusExt::signal(&status).is_some();
    assert!(killed || status.success(), "{status}");
    killed
}

fn default(args: &str, option: &str, value: &str) -> String {
    if args.split_whitespace().any(|arg| arg == option) { String::new() } else { format!("{option} {value}") }
}

/// Numbers in [-1, 1), from a linear congruential generator.
pub fn numbers(seed: u32) -> impl Iterator<Item = f32> {
    let step = |state: &u32| Some(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    std::iter::successors(step(&seed), step).map(|state| (state >> 8) as f32 / (1 << 23) as f32 - 1.0)
}

pub fn write_npy<T: npyz::AutoSerialize>(path: &Path, shape: &[u64], values: &[T]) {
    use npyz::WriterBuilder;
    let mut bytes = Vec::new();
    let mut npy =
        npyz::WriteOptions::new().default_dtype().shape(shape).writer(&mut bytes).begin_nd().unwrap();
    npy.extend(values).unwrap();
    npy.finish().unwrap();
    fs::write(path, bytes).unwrap();
}

/// The features of the small dataset: two captions per image, each with the image's features plus noise.
pub fn features() -> [Vec<f32>; 2] {
    let [p, q] = DIMS;
    let images: Vec<f32> = numbers(1).take(IMAGES as usize * p).collect();
    let mut noise = numbers(2);
    let texts = text_to_image().into_iter().flat_map(|image| {
        let row = image as usize * p;
        images[row..row + q].iter().map(|x| 2.0 * x + 0.5).collect::<Vec<_>>()
    });
    let texts = texts.map(|x| x + 0.3 * noise.next().unwrap()).collect();
    [images, texts]
}

pub fn text_to_image() -> Vec<u32> {
    (0..2 * IMAGES).map(|text| text / 2).collect()
}

pub fn write_dataset(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let [images, texts] = features();
    write_npy(&folder.join("images.npy"), &[IMAGES.into(), DIMS[0] as u64], &images);
    write_npy(&folder.join("texts.npy"), &[2 * u64::from(IMAGES), DIMS[1] as u64], &texts);
    let ids = |name: &str, rows: Vec<u32>| write_npy(&folder.join(name), &[rows.len() as u64], &rows);
    ids("text_to_image.npy", text_to_image());
    SPLITS.into_iter().for_each(|(name, rows)| ids(&format!("split_{name}.npy"), rows.collect()));
}

/// A tensor's type, shape and bytes.
pub type Tensor = (Dtype, Vec<usize>, Vec<u8>);

/// The tensors and the metadata of a safetensors file.
pub fn read_tensors(bytes: &[u8]) -> (BTreeMap<String, Tensor>, HashMap<String, String>) {
    let (_, metadata) = SafeTensors::read_metadata(bytes).unwrap();
    let tensors = SafeTensors::deserialize(bytes).unwrap();
    let own = |(name, t): (String, TensorView)| (name, (t.dtype(), t.shape().to_vec(), t.data().to_vec()));
    (tensors.tensors().into_iter().map(own).collect(), metadata.metadata().clone().unwrap_or_default())
}

/// The file of tensors and metadata. The metadata of a head get the checksum of the new bytes, if they had one.
pub fn write_tensors(tensors: &BTreeMap<String, Tensor>, mut metadata: HashMap<String, String>) -> Vec<u8> {
    let mut checksum = false;
    if let Some(wgoal) = metadata.get_mut("wgoal")
        && let Ok(Value::Object(mut fields)) = serde_json::from_str(wgoal)
        && fields.remove("checksum").is_some()
    {
        let rest = Value::Object(fields).to_string();
        *wgoal = format!("{{\"checksum\":\"{}\",{}", "0".repeat(32), &rest[1..]);
        checksum = true;
    }
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    let mut bytes = safetensors::serialize(views, Some(metadata).filter(|m| !m.is_empty())).unwrap();
    if checksum {
        let digits = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&bytes));
        let at = bytes.windows(32).position(|window| window == [b'0'; 32]).unwrap();
        bytes[at..at + 32].copy_from_slice(digits.as_bytes());
    }
    bytes
}

/// The bytes of a head as an older version wrote it: without a checksum.
pub fn older(bytes: &[u8]) -> Vec<u8> {
    let (tensors, mut metadata) = read_tensors(bytes);
    let mut fields: Value = serde_json::from_str(&metadata["wgoal"]).unwrap();
    fields.as_object_mut().unwrap().remove("checksum").unwrap();
    fields["format"] = 1.into();
    metadata.insert("wgoal".into(), fields.to_string());
    write_tensors(&tensors, metadata)
}

pub fn floats(tensor: &Tensor) -> Vec<f32> {
    assert_eq!(tensor.0, Dtype::F32);
    bytemuck::pod_collect_to_vec(&tensor.2)
}

/// Row numbers, which are written as I64.
pub fn rows(tensor: &Tensor) -> Vec<u32> {
    assert_eq!(tensor.0, Dtype::I64);
    bytemuck::pod_collect_to_vec::<u8, i64>(&tensor.2)
        .into_iter()
        .map(|row| row.try_into().unwrap())
        .collect()
}

/// The keys of an object, sorted.
pub fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort();
    keys
}
