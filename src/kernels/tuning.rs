//! Which variant of the matrix product is the fastest on a GPU. It is measured once per class of shapes and remembered
//! on disk.
//!
//! A class is the orientation, the rows, columns and inner dimension as powers of two, and the slices of the inner
//! dimension. A variant is used only if it gives the same bits as the first candidate. The choice therefore changes
//! only the speed: the same seed gives the same bits on a device, whatever was measured, remembered or forgotten there.

use super::product::{MATMUL_VARIANTS, MatmulVariant, Product, candidates};
use crate::device::{Backend, Commands, Device, Gpu, MatMut, Matrix};
use crate::io::{self, cache_folder, write_regular};
use crate::{Error, Plain, Result};
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use web_time::Instant;

/// The function that computes a product by the variant that the product names.
pub(super) type Multiply = fn(&mut Commands, Product, MatMut) -> Result<()>;

/// The chosen variants of a device.
struct Choices {
    /// For the classes that this process has used.
    asked: HashMap<Class, &'static MatmulVariant>,
    /// For all classes in the cache, by name.
    remembered: Remembered,
    file: Option<PathBuf>,
}

type Remembered = BTreeMap<String, &'static MatmulVariant>;

/// A class: the shape, which operands are transposed, and the slices of the inner dimension.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Class {
    shape: [usize; 3],
    transposed: [bool; 2],
    slices: u32,
}

/// Products of less work than this are not worth a measurement.
const LEAST: usize = 1 << 20;
/// Larger dimensions are measured at this size, which occupies a fast GPU and does not keep a slow one for long.
const LARGEST: usize = 1 << 10;
/// Duration of a sample, in seconds. A class takes three samples per candidate.
const SAMPLE: f64 = 3e-3;

impl Class {
    /// The class of a product of `shape` rows, columns and inner steps, if it is worth measuring.
    pub fn of(product: &Product, shape: [usize; 3], slices: u32) -> Option<Self> {
        let worth = shape.iter().product::<usize>() >= LEAST;
        let shape = shape.map(|n| n.next_power_of_two().min(LARGEST));
        worth.then_some(Self { shape, transposed: [product.a_transposed, product.b_transposed], slices })
    }

    fn name(&self) -> String {
        let [rows, cols, inner] = self.shape;
        let [a, b] = self.transposed.map(|transposed| if transposed { 't' } else { 'n' });
        format!("{a}{b} {rows}x{cols}x{inner} by {}", self.slices)
    }
}

/// The fastest variant for a class, remembered or measured now. If anything fails, it is the first candidate.
pub(super) fn measured(gpu: &Gpu, class: Class, multiply: Multiply) -> &'static MatmulVariant {
    let Some(choices) = gpu.slot(|gpu| Mutex::new(Choices::remembered(gpu))) else {
        return candidates(gpu, class.shape, class.slices)[0];
    };
    let mut choices = choices.lock().unwrap_or_else(PoisonError::into_inner);
    let choices = &mut *choices;
    if let Some(known) = choices.asked.get(&class) {
        return known;
    }
    let candidates = candidates(gpu, class.shape, class.slices);
    let known = choices.remembered.get(&class.name()).copied();
    let known = known.filter(|known| candidates.iter().any(|candidate| candidate.name == known.name));
    let chosen = match (known, &candidates[..]) {
        (Some(known), _) => known,
        (None, [only]) => *only,
        _ => {
            let found = gpu.unprofiled(|| race(gpu, class, &candidates, multiply));
            let fastest = *found.as_ref().unwrap_or(&candidates[0]);
            choices.remembered.insert(class.name(), fastest);
            // A candidate that failed now may work in the next process.
            if let (Ok(_), Some(file)) = (found, &choices.file) {
                store(file, &choices.remembered);
            }
            fastest
        }
    };
    choices.asked.insert(class, chosen);
    chosen
}

impl Choices {
    fn remembered(gpu: &Gpu) -> Self {
        let folder = cache_folder(|name| std::env::var_os(name).map(PathBuf::from));
        let file = folder.map(|folder| folder.join(file_name(gpu)));
        let remembered = file.as_deref().map(load).unwrap_or_default();
        Self { asked: HashMap::new(), remembered, file }
    }
}

/// Checks every candidate against the first, and times it.
// The function is long because all its steps work on the same three matrices.
fn race(
    gpu: &Gpu,
    class: Class,
    candidates: &[&'static MatmulVariant],
    multiply: Multiply,
) -> Result<&'static MatmulVariant> {
    let device = Device::of(Backend::Gpu(gpu.clone()));
    let [rows, cols, inner] = class.shape;
    let [a_shape, b_shape] = [[rows, inner], [inner, cols]];
    let turned = |[rows, cols]: [usize; 2], transposed| if transposed { [cols, rows] } else { [rows, cols] };
    let (a_shape, b_shape) = (turned(a_shape, class.transposed[0]), turned(b_shape, class.transposed[1]));
    // A linear congruential sequence: any numbers of both signs will do.
    let mut state = 1u32;
    let mut matrix = |name, [rows, cols]: [usize; 2]| {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let values: Vec<f32> = (0..rows * cols).map(|_| next()).collect();
        Matrix::from_rows(&device, name, rows, cols, &values)
    };
    let (a, b) = (matrix("tuning.a", a_shape)?, matrix("tuning.b", b_shape)?);
    let mut c = Matrix::new(&device, "tuning.c", rows, cols)?;
    let [a_transposed, b_transposed] = class.transposed;
    let product = Product { a_transposed, b_transposed, ..Product::nn(a.view(), b.view()) };
    let run = |c: &mut Matrix, variant, times: usize| -> Result<f64> {
        let mut commands = device.commands();
        let product = Product { variant: Some(variant), ..product };
        let start = Instant::now();
        for _ in 0..times {
            multiply(&mut commands, product, c.view_mut())?;
        }
        commands.submit()?;
        device.finish()?;
        Ok(start.elapsed().as_secs_f64() / times as f64)
    };
    let mut first: Option<Vec<f32>> = None;
    let mut fastest: Option<(f64, &'static MatmulVariant)> = None;
    for &variant in candidates {
        // The first run compiles the pipeline, so it is not timed.
        let found = run(&mut c, variant, 1).and_then(|_| device.wait(c.to_rows(&device)));
        let found = match (found, &first) {
            (Ok(found), _) => found,
            (Err(error), None) => return Err(error),
            (Err(error), Some(_)) => {
                warn(gpu, variant, &error.to_string());
                continue;
            }
        };
        if let Some(first) = &first {
            let apart = first.iter().zip(&found).fold(0.0f32, |apart, (a, b)| apart.max((a - b).abs()));
            // Largest difference that rounding explains: sums of `inner` products of numbers below 1, taken in
            // different orders.
            let rounding = inner as f32 * f32::EPSILON;
            if apart > rounding || found.iter().any(|x| !x.is_finite()) {
                warn(gpu, variant, &format!("it differs by {apart:e} from {}", candidates[0].name));
            }
            if first.iter().zip(&found).any(|(a, b)| a.to_bits() != b.to_bits()) {
                continue;
            }
        }
        first.get_or_insert(found);
        let times = (SAMPLE / run(&mut c, variant, 1)?).clamp(1.0, 64.0) as usize;
        let mut best = f64::INFINITY;
        for _ in 0..3 {
            best = best.min(run(&mut c, variant, times)?);
        }
        if fastest.is_none_or(|(seconds, _)| best < seconds) {
            fastest = Some((best, variant));
        }
    }
    Ok(fastest.map_or(candidates[0], |(_, variant)| variant))
}

fn warn(gpu: &Gpu, variant: &MatmulVariant, why: &str) {
    let (info, why) = (Plain(gpu.info()), Plain(why));
    let warning = format!("warning: matrix product {} is left out on {info}: {why}", variant.name);
    // `eprintln!` would panic if standard error is closed.
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{warning}\n"));
}

/// The name of the cache file: it depends on the adapter, its driver, its interface and the text of the shaders.
fn file_name(gpu: &Gpu) -> String {
    let info = gpu.info();
    let mut hasher = DefaultHasher::new();
    (&info.name, &info.driver, &info.backend).hash(&mut hasher);
    for variant in &MATMUL_VARIANTS {
        (variant.name, variant.shader(false, false, false).0.source).hash(&mut hasher);
    }
    format!("matmul-{:016x}.json", hasher.finish())
}

/// The choices in a cache file. A file that cannot be read or parsed has none.
fn load(file: &Path) -> Remembered {
    let names: BTreeMap<String, String> = io::read(file, io::SMALL)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let variant = |name: &str| MATMUL_VARIANTS.iter().find(|variant| variant.name == name);
    names.into_iter().filter_map(|(class, name)| Some((class, variant(&name)?))).collect()
}

/// Stores the choices. Errors are ignored, because a run does not depend on the file.
fn store(file: &Path, choices: &Remembered) {
    let names: BTreeMap<&String, &str> =
        choices.iter().map(|(class, variant)| (class, variant.name)).collect();
    if let (Some(folder), Ok(json)) = (file.parent(), serde_json::to_vec_pretty(&names)) {
        let _ = std::fs::create_dir_all(folder);
        let _: std::result::Result<(), Error> = write_regular(file, &json);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::every_adapter;
    use crate::kernels::matmul;

    fn gpus(mut test: impl FnMut(&Gpu)) {
        every_adapter().iter().for_each(|device| test(device.adapter().unwrap()));
    }

    const CLASS: Class = Class { shape: [64, 128, 32], transposed: [false, true], slices: 1 };

    #[test]
    #[ignore = "needs an adapter: run scripts/test"]
    fn a_race_is_won_by_one_that_is_right() {
        let [.., registers, _] = &MATMUL_VARIANTS;
        gpus(|gpu| {
            let all: Vec<_> = MATMUL_VARIANTS.iter().filter(|variant| variant.runs_on(gpu)).collect();
            race(gpu, CLASS, &all, matmul).unwrap();
            // A shader as a broken driver might compile it: too fast, and wrong.
            let page = registers.shader(false, true, false).0;
            let wrong = page.source.replace("k < params.inner; k += 4u", "k < 4u; k += 4u");
            assert_ne!(wrong, page.source);
            gpu.replace_shader(page.name, wrong);
            let won = race(gpu, CLASS, &[all[0], registers], matmul).unwrap();
            gpu.replace_shader(page.name, page.source.into());
            assert_eq!(won.name, all[0].name, "{}", gpu.info());
        });
    }

    /// Tiled variants with the same number of slices sum in the same order, so any of them may win.
    #[test]
    #[ignore = "needs an adapter: run scripts/test"]
    fn tiles_of_every_size_give_the_same_bits() {
        gpus(|gpu| {
            let bits = |variant| {
                let device = Device::of(Backend::Gpu(gpu.clone()));
                let values: Vec<f32> = (0..67 * 131).map(|k| (k as f32).sin()).collect();
                let a = Matrix::from_rows(&device, "a", 67, 131, &values).unwrap();
                let mut c = Matrix::new(&device, "c", 67, 67).unwrap();
                let mut commands = device.commands();
                let product = Product { variant: Some(variant), ..Product::nt(a.view(), a.view()) };
                matmul(&mut commands, product, c.view_mut()).unwrap();
                commands.submit().unwrap();
                let c = device.wait(c.to_rows(&device)).unwrap();
                c.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
            };
            let [tiled @ .., _, _] = &MATMUL_VARIANTS;
            for group in tiled.chunk_by(|one, next| one.slices() == next.slices()) {
                for variant in group {
                    assert_eq!(bits(&group[0]), bits(variant), "{} on {}", variant.name, gpu.info());
                }
            }
        });
    }

    #[test]
    fn choices_outlive_a_process_and_faults_of_the_cache_do_not_matter() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("deep/matmul.json");
        let choices: Remembered = [("nt 64x64x64".to_string(), &MATMUL_VARIANTS[2])].into();
        store(&file, &choices);
        let names = |choices: &Remembered| choices.values().map(|variant| variant.name).collect::<Vec<_>>();
        assert_eq!(names(&load(&file)), ["tiled 32x32"]);
        for damaged in ["", "{", "[1]", "{\"nt 64x64x64\": \"no such variant\"}"] {
            std::fs::write(&file, damaged).unwrap();
            assert!(load(&file).is_empty(), "{damaged}");
        }
        // Special files, which would make a reader wait or never end.
        #[cfg(unix)]
        {
            let pipe = folder.path().join("pipe");
            rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
            for special in [&pipe, &PathBuf::from("/dev/zero"), &folder.path().to_path_buf()] {
                assert!(load(special).is_empty(), "{}", special.display());
            }
            store(&pipe, &choices);
            assert!(!std::fs::metadata(&pipe).unwrap().is_file(), "a pipe is no place to remember in");
        }
        // A file is where the folder should be.
        store(&file.join("below/matmul.json"), &choices);
        assert!(load(&file.join("below/matmul.json")).is_empty());
    }

    #[test]
    fn the_cache_lies_where_the_platform_has_it() {
        let of = |set: &'static [(&str, &str)]| {
            cache_folder(move |name| set.iter().find(|(n, _)| *n == name).map(|(_, path)| path.into()))
        };
        assert_eq!(of(&[("WGOAL_CACHE_DIR", "/mine"), ("HOME", "/home/me")]), Some("/mine".into()));
        assert_eq!(of(&[]), None);
        if cfg!(target_os = "linux") {
            assert_eq!(of(&[("HOME", "/home/me")]), Some("/home/me/.cache/wgoal".into()));
            let both = of(&[("HOME", "/home/me"), ("XDG_CACHE_HOME", "/cache")]);
            assert_eq!(both, Some("/cache/wgoal".into()));
            assert_eq!(
                of(&[("HOME", "/h"), ("XDG_CACHE_HOME", "not/absolute")]),
                Some("/h/.cache/wgoal".into())
            );
        }
    }
}
