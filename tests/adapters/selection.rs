//! Tests the adapters of this machine: they are chosen by name, they agree with each other, and known failures are
//! listed.

use crate::common::random::Random;
use crate::common::{Outcome, Suite, check, devices, judge, known_failure};
use libtest_mimic::Failed;

use wgoal::data::{read_matrix_npy, write_matrix_npy};
use wgoal::device::DeviceKind;
use wgoal::doctor::kernels;
use wgoal::model::{EncoderKind, Pooling, Side};
use wgoal::{Dataset, Device, Head, TrainConfig, Trainer};

/// A device can be opened by the name that the tests use.
fn chosen_by_name(device: &Device) -> Outcome {
    let info = device.info();
    let Some((name, _)) = devices().iter().find(|(_, other)| other.info().index == info.index) else {
        return Err(format!("{device} is not among the devices").into());
    };
    let chosen = Device::open(name)?;
    // The CPU is opened without reading the list.
    let same = info.kind == DeviceKind::Cpu || chosen.info().index == info.index;
    check(
        same && chosen.info().kind == info.kind && chosen.info().name == info.name,
        format!("{name} is {chosen}"),
    )
}

/// An adapter that runs on the CPU is never taken for a GPU.
fn software_is_known(device: &Device) -> Outcome {
    let info = device.info();
    let software = ["llvmpipe", "SwiftShader"].iter().any(|name| info.name.contains(name));
    check(!software || info.kind == DeviceKind::Software, format!("{device} is {:?}", info.kind))
}

/// Three epochs from one seed end at the same validation rsum on every device. Devices differ by rounding, which may
/// change the rank of a query. Each changed rank costs a part of a point.
fn agreement(objective: &str) -> Outcome {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/data/clipart-mini");
    let mut rsums = Vec::new();
    for (name, device) in devices() {
        let config = {
            let mut options = TrainConfig::default();
            options.objective = objective.parse()?;
            options.epochs = 3;
            options.embed = 64;
            options
        };
        let mut trainer = Trainer::new(device, Dataset::open(folder)?, config)?;
        let last = trainer.epochs().last().ok_or("no epoch")??;
        println!("{objective} on {name}: validation rsum {:.2} after epoch {}", last.val.rsum, last.epoch);
        rsums.push(last.val.rsum);
    }
    let (low, high) = rsums.iter().fold((f64::MAX, f64::MIN), |(low, high), &x| (low.min(x), high.max(x)));
    // Chance is 10.6. Heads that learn nothing would agree as well.
    check(low > 50.0, format!("rsum {low}"))?;
    check(high - low <= 1.0, format!("rsums from {low} to {high}"))
}

/// On a GPU, the embedding of a row does not depend on the rows beside it, so a query matches its copy in an index. The
/// products of the CPU keep to this too.
fn embeddings_stand_alone(device: &Device) -> Outcome {
    let dataset = Dataset::open(concat!(env!("CARGO_MANIFEST_DIR"), "/data/clipart-mini"))?;
    let (p, q, embed) = (dataset.image_dim(), dataset.text_dim(), 60);
    let head = Head::new(p, q, embed, 0)?;
    for side in [Side::Image, Side::Text] {
        let all = head.embed(device, &dataset, side, &(0..1100).into())?;
        for rows in [7..8, 1024..1100, 90..500] {
            let some = head.embed(device, &dataset, side, &rows.clone().into())?;
            let part = &all[rows.start as usize * embed..rows.end as usize * embed];
            let apart = some.iter().zip(part).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
            check(
                apart == 0,
                format!("{side:?} rows {rows:?} on {device}: {apart} of {} numbers", part.len()),
            )?;
        }
    }
    Ok(())
}

/// Features cached as f16 are uploaded as f16 if the device can. Training gives the same bits as with the same values
/// in f32.
fn halves(device: &Device) -> Outcome {
    let cached = concat!(env!("CARGO_MANIFEST_DIR"), "/data/clipart-mini");
    let folder = tempfile::tempdir()?;
    for file in std::fs::read_dir(cached)? {
        let path = file?.path();
        std::fs::copy(&path, folder.path().join(path.file_name().ok_or("no name")?))?;
    }
    for name in ["images.npy", "texts.npy"] {
        let path = folder.path().join(name);
        let halves = std::fs::read(&path)?[..128].windows(3).any(|word| word == b"<f2");
        check(halves, format!("{name} should hold f16"))?;
        let (rows, cols, values) = read_matrix_npy(&path)?;
        write_matrix_npy(&path, rows, cols, &values)?;
    }
    let train = |device: &Device, folder: &std::path::Path| -> Result<_, Failed> {
        let config = TrainConfig::default().with(|c| c.embed = 16);
        let mut trainer = Trainer::new(device, Dataset::open(folder)?, config)?;
        trainer.run_epoch()?;
        Ok(trainer.checkpoint()?.head().clone())
    };
    let from_halves = train(device, cached.as_ref())?;
    check(train(device, folder.path())? == from_halves, "the heads differ")?;
    let Some(_) = device.adapter() else { return Ok(()) };
    // A wrong shader shows which runs use it.
    let other = Device::open(&device.info().index.to_string())?;
    if let Some(gpu) = other.adapter() {
        let page = kernels().find(|kernel| kernel.spec.name == "widen").ok_or("no such kernel")?.spec.source;
        gpu.replace_shader("widen", page.replacen("x[k] = wide(", "x[k] = 0.5 * wide(", 1));
    }
    let uses = train(&other, cached.as_ref())? != from_halves;
    check(uses == (device.info().backend != "gl"), format!("uploads f16: {uses}"))?;
    check(train(&other, folder.path())? == from_halves, "f32 features go through it as well")
}

/// The same for ragged local rows of odd widths, some of which are dropped, with learned pooling and the residual
/// encoder.
fn ragged_halves(device: &Device) -> Outcome {
    const ITEMS: usize = 30;
    let folders = [tempfile::tempdir()?, tempfile::tempdir()?];
    for (half, folder) in [true, false].into_iter().zip(&folders) {
        let path = |name: &str| folder.path().join(name);
        let ids = |name: &str, rows: std::ops::Range<usize>| {
            write_npy(&path(name), &[rows.len()], rows.map(|x| x as u32))
        };
        ids("text_to_image.npy", 0..ITEMS)?;
        ids("split_train.npy", 0..20)?;
        ids("split_val.npy", 20..25)?;
        ids("split_test.npy", 25..ITEMS)?;
        for (name, offsets, width, most) in [
            ("image_regions.npy", "region_offsets.npy", 13, 7),
            ("text_tokens.npy", "text_offsets.npy", 5, 4),
        ] {
            let mut random = Random::new(width as u64);
            let mut ends = vec![0u32];
            for _ in 0..ITEMS {
                ends.push(ends[ends.len() - 1] + 1 + random.below(most) as u32);
            }
            let rows = ends[ITEMS] as usize;
            // Values that are exact in f16.
            let values = (0..rows * width).map(|_| random.coarse(128));
            match half {
                true => write_npy(&path(name), &[rows, width], values.map(half::f16::from_f32))?,
                false => write_npy(&path(name), &[rows, width], values)?,
            }
            write_npy(&path(offsets), &[ends.len()], ends.into_iter())?;
        }
    }
    let train = |folder: &tempfile::TempDir| -> Result<_, Failed> {
        let config = TrainConfig::default().with(|c| {
            c.embed = 6;
            c.batch = 9;
            c.epochs = 3;
            c.image_pooling = Pooling::Gpo;
            c.text_pooling = Pooling::Gpo;
            c.image_encoder = EncoderKind::ResidualMlp;
            c.size_augment = true;
        });
        let mut trainer = Trainer::new(device, Dataset::open(folder)?, config)?;
        trainer.epochs().try_for_each(|epoch| epoch.map(drop))?;
        Ok(trainer.checkpoint()?.head().clone())
    };
    check(train(&folders[0])? == train(&folders[1])?, "the heads differ")
}

fn write_npy<T: npyz::AutoSerialize>(
    path: &std::path::Path,
    shape: &[usize],
    values: impl Iterator<Item = T>,
) -> std::io::Result<()> {
    use npyz::WriterBuilder;
    let shape: Vec<_> = shape.iter().map(|&n| n as u64).collect();
    let file = std::fs::File::create(path)?;
    let mut npy = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(file).begin_nd()?;
    npy.extend(values)?;
    npy.finish()
}

/// Tests listed as known failures must fail. All others must pass.
fn known_failures() -> Outcome {
    let table = [("gl", "matmul", "its driver is wrong")];
    check(known_failure(&table, "gl", "matmul") == Some("its driver is wrong"), "the line is not found")?;
    check(known_failure(&table, "gl", "ranks").is_none(), "another test")?;
    check(known_failure(&table, "lavapipe", "matmul").is_none(), "another adapter")?;
    check(judge(None, || Ok(())).is_ok(), "a pass")?;
    check(judge(None, || Err("it failed".into())).is_err(), "a failure")?;
    check(judge(Some("why"), || Err("it failed".into())).is_ok(), "a known failure")?;
    check(
        judge(Some("why"), || std::panic::resume_unwind(Box::new("a panic"))).is_ok(),
        "a known failure by panic",
    )?;
    let unexpected =
        judge(Some("why"), || Ok(())).err().and_then(|failed| failed.message().map(String::from));
    check(
        unexpected.is_some_and(|message| message.contains("passes, but is known to fail (why)")),
        "an unexpected pass",
    )
}

pub fn tests(suite: &mut Suite) {
    suite.each("chosen_by_name", chosen_by_name);
    suite.each("software_is_known", software_is_known);
    suite.each_adapter("embeddings_stand_alone", embeddings_stand_alone);
    suite.each("halves", halves);
    suite.each("ragged_halves", ragged_halves);
    suite.once("known_failures", known_failures);
    suite.once_on_all("agreement/infonce", || agreement("infonce"));
    suite.once_on_all("agreement/hinge", || agreement("hinge"));
    suite.once_on_all("agreement/cir:sig-ms", || agreement("cir:sig-ms"));
}
