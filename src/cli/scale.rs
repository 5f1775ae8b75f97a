//! Benchmarks of what grows: an epoch over many features, evaluation of many candidates, batches of many pairs. Each is
//! set against the matrix products in it, timed in the same run.

use super::bench::wrong;
use super::{DeviceArg, ObjectiveArgs, make_folder, print_json, say};
use clap::Args;
use half::f16;
use npyz::WriterBuilder;
use serde::Serialize;
use std::fmt::Write as _;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::Instant;
use wgoal::data::write_file;
use wgoal::device::Matrix;
use wgoal::kernels::{Product, matmul};
use wgoal::{Dataset, Device, Error, ErrorKind, GradientOptions, Recall, Result, TrainConfig, Trainer};

/// Numbers of both signs, the same at every call.
fn numbers() -> impl Iterator<Item = f32> {
    let mut state = 1u32;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    })
}

fn unit_rows(values: &mut [f32], dim: usize) {
    for row in values.chunks_exact_mut(dim) {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x /= norm);
    }
}

/// The median of what `work` takes, in seconds: of at least three times, for two seconds or so.
fn median(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let (start, mut samples) = (Instant::now(), Vec::new());
    while samples.len() < 3 || (start.elapsed().as_secs_f64() < 2.0 && samples.len() < 51) {
        let start = Instant::now();
        work()?;
        samples.push(start.elapsed().as_secs_f64());
    }
    samples.sort_by(f64::total_cmp);
    Ok(samples[samples.len() / 2])
}

/// Seconds of products C = op(A) op(B) of the given [rows, cols, inner], one after the other as in a step; A is transposed in
/// those marked, else B.
fn products(device: &Device, shapes: &[([usize; 3], bool)]) -> Result<f64> {
    let matrix = |rows: usize, cols: usize| {
        let values: Vec<_> = numbers().take(rows * cols).collect();
        Matrix::from_rows(device, "bench", rows, cols, &values)
    };
    let mut operands = Vec::new();
    for &([rows, cols, inner], a_transposed) in shapes {
        let (a, b) = match a_transposed {
            true => (matrix(inner, rows)?, matrix(inner, cols)?),
            false => (matrix(rows, inner)?, matrix(cols, inner)?),
        };
        operands.push((a, b, a_transposed, Matrix::new(device, "bench", rows, cols)?));
    }
    median(|| {
        device.wait(async {
            let mut commands = device.commands();
            for (a, b, a_transposed, c) in &mut operands {
                let product = match a_transposed {
                    true => Product::tn(a.view(), b.view()),
                    false => Product::nt(a.view(), b.view()),
                };
                matmul(&mut commands, product, c.view_mut())?;
            }
            commands.submit()?;
            match operands.last() {
                Some((.., c)) => c.buffer.read(device, 0..4).await.map(drop),
                None => Ok(()),
            }
        })
    })
}

/// The largest resident memory of this process so far, in MB; `None` where the system does not tell.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024 / 1_000_000)
}

fn shape<const K: usize>(text: &str, form: &str) -> Result<[usize; K]> {
    let numbers: Option<Vec<usize>> = text.split(':').map(|n| n.parse().ok().filter(|&n| n > 0)).collect();
    numbers.and_then(|numbers| numbers.try_into().ok()).ok_or_else(|| {
        let expected = format!("{form}, whole numbers of 1 or more");
        Error::new(ErrorKind::Config, "--shape", expected, text, "give it in this form")
    })
}

#[derive(Args)]
pub struct EvalBench {
    /// Images : captions : embedding width; captions belong to images in turn
    #[arg(long, value_name = "N:M:D", default_value = "5000:25000:1024")]
    shape: String,
    #[command(flatten)]
    device: DeviceArg,
    /// One line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct EvalTimes {
    device: String,
    shape: String,
    /// Recall in both directions, embeddings given.
    seconds: f64,
    /// The similarities of both directions alone.
    products: f64,
    ratio: f64,
}

impl EvalBench {
    pub fn run(self) -> Result<()> {
        let [n, m, d] = shape(&self.shape, "N:M:D")?;
        let device = self.device.open()?;
        let mut images: Vec<_> = numbers().take(n * d).collect();
        unit_rows(&mut images, d);
        let truth: Vec<u32> = (0..m).map(|text| (text % n) as u32).collect();
        // Every caption is its image with a little of the next: the right one ranks first.
        let row = |image: u32| &images[image as usize * d..][..d];
        let mut texts: Vec<f32> = truth
            .iter()
            .flat_map(|&own| row(own).iter().zip(row((own + 1) % n as u32)).map(|(a, b)| a + 0.5 * b))
            .collect();
        unit_rows(&mut texts, d);
        let mut found = None;
        let seconds = median(|| {
            found = Some(Recall::of(&device, &images, &texts, d, &truth)?);
            Ok(())
        })?;
        let perfect = found.filter(|found| found.rsum == 600.0);
        perfect.ok_or_else(|| wrong("recall", "rsum 600", format!("{found:?}")))?;
        // One after the other, each with its memory: the similarities are large.
        let products = products(&device, &[([n, m, d], false)])? + products(&device, &[([m, n, d], false)])?;
        let times = EvalTimes {
            device: device.to_string(),
            shape: self.shape,
            seconds,
            products,
            ratio: seconds / products,
        };
        if self.json {
            return print_json(&times);
        }
        let EvalTimes { device, shape, ratio, .. } = times;
        say(format!(
            "evaluation {shape} on {device}: {seconds:.2} s in both directions, {products:.2} s of it in matrix products \
             timed alone, ratio {ratio:.2}"
        ));
        Ok(())
    }
}

#[derive(Args)]
pub struct EpochBench {
    /// Images : captions : image width : text width : embedding width; features are f16, in a folder made for it
    #[arg(long, value_name = "N:M:P:Q:D", default_value = "29000:145000:2048:768:1024")]
    shape: String,
    /// Pairs in a batch
    #[arg(long, default_value_t = 128)]
    batch: usize,
    /// Begin with features that no cache of the system holds, as if there were more of them than memory (Linux)
    #[arg(long)]
    cold: bool,
    /// Where to make the folder of features, which is removed again [that of the system]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    #[command(flatten)]
    objective: ObjectiveArgs,
    #[command(flatten)]
    device: DeviceArg,
    /// One line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct EpochTimes {
    device: String,
    shape: String,
    objective: String,
    steps: usize,
    /// The epoch, reading included; not validation, nor what a device compiles and measures the first time.
    seconds: f64,
    /// The matrix products of its steps alone.
    products: f64,
    ratio: f64,
    /// Largest resident memory of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_mb: Option<u64>,
}

impl EpochBench {
    pub fn run(self) -> Result<()> {
        let [n, m, p, q, d] = shape(&self.shape, "N:M:P:Q:D")?;
        let config = TrainConfig::default();
        let objective = self.objective.apply(config.objective.clone())?;
        let config = TrainConfig { objective, batch: self.batch, embed: d, epochs: 1, ..config };
        let device = self.device.open()?;
        let scratch = self.scratch.clone().unwrap_or_else(std::env::temp_dir);
        let fault = |e: std::io::Error| {
            let advice = "give a folder that can be written with --scratch";
            Error::new(ErrorKind::Config, scratch.display(), "a folder for features", e, advice)
        };
        let folder = tempfile::tempdir_in(make_folder(&scratch)?).map_err(fault)?;
        write_features(folder.path(), [n, m, p, q]).map_err(fault)?;
        if self.cold {
            ["images.npy", "texts.npy"]
                .iter()
                .try_for_each(|name| forget(&folder.path().join(name)))
                .map_err(fault)?;
        }
        let mut trainer = Trainer::new(&device, Dataset::open(folder.path())?, config)?;
        let steps = trainer.steps_per_epoch();
        let b = self.batch.min(m);
        let shapes = [
            ([b, d, p], false),
            ([b, d, q], false),
            ([b, b, d], false),
            ([d, p, b], true),
            ([d, q, b], true),
        ];
        // Before and after, since the machine may change its pace on the way.
        let before = products(&device, &shapes)?;
        let start = Instant::now();
        let (sender, receiver) = std::sync::mpsc::channel();
        // Validation is not the epoch's.
        trainer.on_event(move |event| {
            if matches!(event, wgoal::Event::Validating { .. }) {
                let _ = sender.send(start.elapsed().as_secs_f64());
            }
        });
        let epoch = trainer.run_epoch()?;
        let seconds = receiver.recv().unwrap_or(epoch.seconds);
        if !(epoch.loss.is_finite() && epoch.gradient_norm > 0.0) {
            return Err(wrong("the epoch", "a gradient", format!("{epoch:?}")));
        }
        let products = steps as f64 * (before + products(&device, &shapes)?) / 2.0;
        let times = EpochTimes {
            device: device.to_string(),
            shape: self.shape,
            objective: trainer.config().objective.to_string(),
            steps,
            seconds,
            products,
            ratio: seconds / products,
            peak_mb: peak_memory(),
        };
        if self.json {
            return print_json(&times);
        }
        let EpochTimes { device, shape, objective, ratio, peak_mb, .. } = times;
        let peak = peak_mb.map_or(String::new(), |mb| format!(", {mb} MB resident at most"));
        say(format!(
            "epoch of {objective} {shape} on {device}: {seconds:.1} s for {steps} steps, {products:.1} s in matrix products \
             timed alone, ratio {ratio:.2}{peak}"
        ));
        Ok(())
    }
}

/// Drops what the system's cache holds of a file.
fn forget(path: &Path) -> std::io::Result<()> {
    let file = std::fs::File::open(path)?;
    file.sync_all()?;
    #[cfg(target_os = "linux")]
    return Ok(rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?);
    #[cfg(not(target_os = "linux"))]
    Err(std::io::Error::other("--cold is for Linux"))
}

/// A dataset of f16 features; the first images validate, the next test.
fn write_features(folder: &Path, [n, m, p, q]: [usize; 4]) -> std::io::Result<()> {
    let create = |name: &str| std::fs::File::create(folder.join(name)).map(BufWriter::new);
    let features = |name: &str, rows: usize, cols: usize| {
        let shape = [rows as u64, cols as u64];
        let options = npyz::WriteOptions::<f16>::new().default_dtype().shape(&shape);
        let mut npy = options.writer(create(name)?).begin_nd()?;
        numbers().take(rows * cols).try_for_each(|x| npy.push(&f16::from_f32(x)))?;
        npy.finish()
    };
    let indices = |name: &str, values: &mut dyn Iterator<Item = i64>| {
        let values: Vec<_> = values.collect();
        let options = npyz::WriteOptions::<i64>::new().default_dtype().shape(&[values.len() as u64]);
        let mut npy = options.writer(create(name)?).begin_nd()?;
        npy.extend(values)?;
        npy.finish()
    };
    features("images.npy", n, p)?;
    features("texts.npy", m, q)?;
    // Where there are more images than captions, those that have one lie apart.
    let used = n.min(m);
    let image = |k: usize| (k * (n / used)) as i64;
    indices("text_to_image.npy", &mut (0..m).map(|text| image(text % used)))?;
    let held = (used / 100).clamp(1, 100);
    indices("split_val.npy", &mut (0..held).map(image))?;
    indices("split_test.npy", &mut (held..2 * held).map(image))?;
    indices("split_train.npy", &mut (2 * held..used).map(image))
}

#[derive(Args)]
pub struct PairsBench {
    /// Sizes of batches
    #[arg(
        long,
        value_name = "PAIRS",
        value_delimiter = ',',
        default_value = "128,256,512,1024,2048,4096,8192,16384,32768"
    )]
    pairs: Vec<usize>,
    /// Width of the embeddings
    #[arg(long, default_value_t = 256)]
    embed: usize,
    #[command(flatten)]
    objective: ObjectiveArgs,
    #[command(flatten)]
    device: DeviceArg,
    /// Time and memory over pairs, as an SVG file
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// One line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct PairsTimes {
    pairs: usize,
    /// The gradient at given embeddings, the way there and back included.
    seconds: f64,
    /// The product of the similarities alone.
    product: f64,
    ratio: f64,
    /// What the largest resident memory of the process has grown by, from the embeddings on.
    #[serde(skip_serializing_if = "Option::is_none")]
    grown_mb: Option<u64>,
}

impl PairsBench {
    pub fn run(self) -> Result<()> {
        let objective = self.objective.apply(TrainConfig::default().objective)?;
        let device = self.device.open()?;
        let dim = self.embed;
        let mut rows = Vec::new();
        if !self.json {
            say(format!("gradient of {objective} at embeddings of width {dim}, on {device}"));
            say("  pairs          ms   product ms   ratio   memory MB");
        }
        for &pairs in &self.pairs {
            let mut images: Vec<_> = numbers().take(pairs * dim).collect();
            let mut texts: Vec<_> = numbers().skip(1).take(pairs * dim).collect();
            unit_rows(&mut images, dim);
            unit_rows(&mut texts, dim);
            let before = peak_memory();
            let options = GradientOptions::default();
            let mut loss = 0.0;
            let seconds = median(|| {
                loss = objective.gradients(&device, &images, &texts, dim, options)?.loss;
                Ok(())
            })?;
            let grown_mb = peak_memory().zip(before).map(|(after, before)| after - before);
            if !loss.is_finite() {
                return Err(wrong("the gradient", "a finite loss", loss));
            }
            // In strips, as the gradient has them: the whole may be beyond memory.
            let strip = pairs.min(1024);
            let product = products(&device, &[([strip, pairs, dim], false)])? * pairs as f64 / strip as f64;
            let row = PairsTimes { pairs, seconds, product, ratio: seconds / product, grown_mb };
            if !self.json {
                let memory = grown_mb.map_or("-".into(), |mb| mb.to_string());
                let (ms, product) = (1e3 * seconds, 1e3 * product);
                say(format!("{pairs:7} {ms:11.2} {product:12.2} {:7.2} {memory:>11}", row.ratio));
            }
            rows.push(row);
        }
        if let Some(path) = &self.plot {
            write_file(path, plot(&objective.to_string(), &device.to_string(), &rows).as_bytes())?;
        }
        if self.json { print_json(&rows) } else { Ok(()) }
    }
}

/// Both times over pairs, both axes logarithmic, as an SVG document.
fn plot(objective: &str, device: &str, rows: &[PairsTimes]) -> String {
    const SIZE: [f64; 2] = [520.0, 300.0];
    let logs =
        |of: &dyn Fn(&PairsTimes) -> f64| -> Vec<f64> { rows.iter().map(|row| of(row).log10()).collect() };
    let (pairs, seconds, products) =
        (logs(&|row| row.pairs as f64), logs(&|row| 1e3 * row.seconds), logs(&|row| 1e3 * row.product));
    let low = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = |values: &[f64]| values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let both = [&seconds[..], &products[..]].concat();
    let ([x0, x1], [y0, y1]) = ([low(&pairs), high(&pairs)], [low(&both).floor(), high(&both).ceil()]);
    let x = |value: f64| 70.0 + SIZE[0] * (value - x0) / (x1 - x0).max(1e-9);
    let y = |value: f64| 40.0 + SIZE[1] * (y1 - value) / (y1 - y0).max(1e-9);
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"640\" height=\"400\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"640\" height=\"400\" fill=\"white\"/>\n",
    );
    let _ = writeln!(
        svg,
        "<text x=\"70\" y=\"22\">gradient of {objective} on {device}: ms over pairs; grey: its product alone</text>"
    );
    for power in y0 as i32..=y1 as i32 {
        let at = y(f64::from(power));
        let _ = writeln!(svg, "<line x1=\"70\" x2=\"590\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>");
        let label = 10f64.powi(power);
        let _ = writeln!(svg, "<text x=\"64\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>", at + 4.0);
    }
    for (row, &at) in rows.iter().zip(&pairs) {
        let _ =
            writeln!(svg, "<text x=\"{:.1}\" y=\"360\" text-anchor=\"middle\">{}</text>", x(at), row.pairs);
    }
    for (values, colour) in [(&products, "#999"), (&seconds, "#06c")] {
        let points: Vec<_> =
            pairs.iter().zip(values).map(|(&px, &py)| format!("{:.1},{:.1}", x(px), y(py))).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        );
    }
    svg + "</svg>\n"
}
