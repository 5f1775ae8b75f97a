//! Work besides training that several processes divide, as threads of this one: the same bits on any number of them.

use crate::job::on_ranks;
use crate::random::Random;
use std::sync::Arc;
use wgoal::cluster::Communicator;
use wgoal::data::{Arrays, RowList};
use wgoal::eval::{Correction, Evaluation, Hubness, HubnessCorrection, Ranks, Truth};
use wgoal::model::{HeadConfig, Side};
use wgoal::rerank::Candidates;
use wgoal::sweep::{Sweep, Variant};
use wgoal::train::{Baseline, ClosedForm, Init};
use wgoal::{Checkpoint, Dataset, Device, ErrorKind, Head, Result, Split, TrainConfig, Trainer};

const DIM: usize = 8;

fn example() -> Dataset {
    Dataset::open("data/clipart-mini").unwrap()
}

/// Some 2,500 of the rows of the example, most of them several times.
fn many(dataset: &Dataset) -> RowList {
    let rows = &dataset.split(Split::Train).texts;
    (0..2500).map(|k| rows.get(k * 7 % rows.len()).unwrap()).collect()
}

fn head(dataset: &Dataset) -> Head {
    let config = HeadConfig::default().with(|c| c.embed = DIM);
    Head::for_dataset(dataset, &config, 3).unwrap()
}

fn unit_rows(seed: u64, rows: usize, dim: usize) -> Vec<f32> {
    let mut values = Random::new(seed).values(rows * dim);
    for row in values.chunks_exact_mut(dim) {
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x /= length);
    }
    values
}

/// The device of a process of a job.
fn shared(ranks: &Arc<dyn Communicator>) -> Device {
    Device::cpu().with_ranks(ranks.clone())
}

/// Checks that every process has the result of one process.
fn same<T: PartialEq + Send + Sync>(what: &str, work: impl Fn(&Device) -> T + Sync) {
    let alone = work(&Device::cpu());
    for size in [2, 3, 4] {
        let found = on_ranks(size, |ranks| work(&shared(&ranks)));
        for (rank, found) in found.into_iter().enumerate() {
            assert!(found == alone, "{what}: rank {rank} of {size} differs from one process");
        }
    }
}

#[test]
fn embedding_and_evaluation_are_divided_without_a_change() {
    let dataset = example();
    let (head, rows) = (head(&dataset), many(&dataset));
    same("embedding", |device| head.embed(device, &dataset, Side::Text, &rows).unwrap());
    same("recall", |device| head.recall(device, &dataset, Split::Val, 1, Default::default()).unwrap());
    let (images, texts) = (unit_rows(1, 2100, DIM), unit_rows(2, 2300, DIM));
    let own: Vec<u32> = (0..2300).map(|text| text * 5 % 2100).collect();
    let truth = Truth::of_images(2100, &own).unwrap();
    same("ranks", |device| Ranks::of(device, &images, &texts, DIM, &truth).unwrap());
    same("folds", |device| Evaluation::folds(device, &images, &texts, DIM, &truth, 3, &[7]).unwrap());
    same("candidates", |device| Candidates::top(device, (&images, DIM), (&texts, DIM), 5).unwrap());
}

#[test]
fn the_correction_for_hubs_is_divided_without_a_change() {
    let dataset = example();
    let head = head(&dataset);
    let hubness = Hubness::Csls { k: 7 };
    let (images, texts) = (unit_rows(1, 300, DIM), unit_rows(2, 1300, DIM));
    let correction = HubnessCorrection::new(hubness, [0.3, 0.4], [&images, &texts], DIM).unwrap();
    same("penalties", |device| correction.penalties(device, Side::Text, &texts).unwrap());
    for choice in [Correction::Auto, Correction::Csls] {
        same("fit", |device| {
            HubnessCorrection::fit(device, &head, &dataset, Default::default(), choice, 100, 0).unwrap()
        });
    }
}

#[test]
fn the_error_of_one_process_is_that_of_all() {
    let mut random = Random::new(1);
    let mut texts = random.values(2000 * 4);
    texts[1500 * 4] = f32::NAN;
    let rows: Vec<u64> = (0..2000).collect();
    let arrays = Arrays::new()
        .with_features("images", &[2000, 3], &random.values(2000 * 3))
        .with_features("texts", &[2000, 4], &texts)
        .with_rows("text_to_image", &rows)
        .with_rows("split_train", &rows[..2])
        .with_rows("split_val", &rows[2..4])
        .with_rows("split_test", &rows[4..]);
    let dataset = Dataset::from_arrays("made", arrays).unwrap();
    let config = HeadConfig::default().with(|c| c.embed = DIM);
    let head = Head::for_config(3, 4, &config, 0).unwrap();
    let alone = head.embed(&Device::cpu(), &dataset, Side::Text, &rows.clone().into()).unwrap_err();
    assert!(alone.to_string().contains("1500"), "{alone}");
    for found in on_ranks(3, |ranks| {
        head.embed(&shared(&ranks), &dataset, Side::Text, &rows.clone().into()).unwrap_err()
    }) {
        assert_eq!((found.kind(), found.to_string()), (ErrorKind::Data, alone.to_string()));
    }
}

#[test]
fn processes_that_do_different_work_notice_it() {
    let dataset = example();
    let (head, rows) = (head(&dataset), many(&dataset));
    let found = on_ranks(3, |ranks| -> Result<()> {
        let device = shared(&ranks);
        match ranks.rank() {
            1 => Candidates::top(&device, (&[1.0, 0.0], 2), (&[0.0, 1.0], 2), 1).map(drop)?,
            _ => head.embed(&device, &dataset, Side::Text, &rows).map(drop)?,
        }
        Ok(())
    });
    let words = ["embedding on process 0", "candidates on process 1", "embedding on process 2"];
    for (found, words) in found.into_iter().zip(words) {
        let error = found.unwrap_err().to_string();
        let expected =
            format!("processes of the job: expected the same work on all of them, found {words} alone; ");
        assert!(error.starts_with(&expected), "{error}");
    }
    // One that has come to its end does not leave the others waiting.
    let found = on_ranks(2, |ranks| match ranks.rank() {
        0 => wgoal::cluster::end(&*ranks),
        _ => head.embed(&shared(&ranks), &dataset, Side::Text, &rows).map(drop),
    });
    assert!(found.iter().all(Result::is_err));
}

/// The head of a closed form, with what was chosen.
fn fitted(device: &Device, form: ClosedForm, config: &TrainConfig) -> (Head, f64, Vec<f64>) {
    let dataset = many_pairs();
    let Baseline { head, regularization, correlations, .. } =
        Baseline::fit(form, device, &dataset, config, &[0.01, 0.1, 1.0]).unwrap();
    (head, regularization, correlations)
}

/// 4,500 training pairs of 2,000 images: five strips of CCA, and three of kernel CCA with random features.
fn many_pairs() -> Dataset {
    let mut random = Random::new(5);
    let shared = random.values(2100 * 3);
    let mut near = |row: usize, width: usize| -> Vec<f32> {
        (0..width).map(|at| shared[row * 3 + at % 3] + 0.3 * random.uniform()).collect()
    };
    let images: Vec<f32> = (0..2100).flat_map(|row| near(row, 6)).collect();
    let owners: Vec<u64> =
        (0..4600).map(|text| if text < 4500 { text * 7 % 2000 } else { text - 2500 }).collect();
    let texts: Vec<f32> = owners.iter().flat_map(|&image| near(image as usize, 5)).collect();
    let rows = |range: std::ops::Range<u64>| range.collect::<Vec<_>>();
    let arrays = Arrays::new()
        .with_features("images", &[2100, 6], &images)
        .with_features("texts", &[4600, 5], &texts)
        .with_rows("text_to_image", &owners)
        .with_rows("split_train", &rows(0..2000))
        .with_rows("split_val", &rows(2000..2050))
        .with_rows("split_test", &rows(2050..2100));
    Dataset::from_arrays("made", arrays).unwrap()
}

#[test]
fn closed_forms_are_divided_without_a_change() {
    let base = TrainConfig::default().with(|c| (c.embed, c.slices, c.standardize) = (4, 3, true));
    let random = base.clone().with(|c| c.random_features = 20);
    let landmarks = base.clone().with(|c| c.landmarks = 600);
    for (form, config) in [
        (ClosedForm::Cca, &base),
        (ClosedForm::Ridge, &base),
        (ClosedForm::KernelCca, &random),
        (ClosedForm::KernelCca, &landmarks),
    ] {
        let alone = fitted(&Device::cpu(), form, config);
        for size in [2, 4] {
            for found in on_ranks(size, |ranks| fitted(&shared(&ranks), form, config)) {
                assert!(found == alone, "{form} on {size} ranks");
            }
        }
        // Slices change only rounding.
        let whole = fitted(&Device::cpu(), form, &config.clone().with(|c| c.slices = 0));
        let weights = |head: &Head| [Side::Image, Side::Text].map(|side| head.side(side).0).concat();
        let far =
            weights(&whole.0).iter().zip(weights(&alone.0)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 1e-3 && whole.1 == alone.1, "{form}: {far}");
    }
}

#[test]
fn a_run_that_starts_from_cca_has_the_same_bits_on_any_number_of_ranks() {
    let dataset = Arc::new(example());
    let config = TrainConfig::default().with(|c| {
        (c.embed, c.epochs, c.slices, c.init) = (8, 1, 8, Init::Cca);
        c.objective = "infonce".parse().unwrap();
    });
    let train = |ranks: Option<Arc<dyn Communicator>>| -> Checkpoint {
        let device = ranks.as_ref().map_or(Device::cpu(), shared);
        let mut trainer = Trainer::new(&device, dataset.clone(), config.clone()).unwrap();
        ranks.map_or(Ok(()), |ranks| trainer.share(ranks)).unwrap();
        trainer.train(|_, _| Ok(())).unwrap();
        let mut best = trainer.best().unwrap();
        best.fit_correction(&device, &dataset).unwrap();
        best
    };
    let alone = train(None);
    assert!(on_ranks(3, |ranks| train(Some(ranks))).iter().all(|found| *found == alone));
}

/// What a sweep leaves, without times and devices.
fn left(out: &std::path::Path) -> (Vec<serde_json::Value>, Vec<(String, Vec<u8>)>) {
    let lines = std::fs::read_to_string(out.join("results.jsonl")).unwrap();
    let lines = lines.lines().map(|line| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        if let Some(run) = line.get_mut("run") {
            run["seconds"] = 0.into();
            run["device"] = "".into();
            run["epochs"].as_array_mut().unwrap().iter_mut().for_each(|epoch| epoch["seconds"] = 0.into());
        }
        line
    });
    let heads = std::fs::read_dir(out.join("heads")).unwrap().map(|file| {
        let path = file.unwrap().path();
        (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap())
    });
    let mut heads: Vec<_> = heads.collect();
    heads.sort();
    (lines.collect(), heads)
}

#[test]
fn a_sweep_is_spread_over_processes_without_a_change_and_resumed_on_others() {
    let dataset = Arc::new(example());
    let variants = ["con:con", "hinge", "infonce"].into_iter().flat_map(|name| {
        [1e-3, 2e-3].map(|lr| Variant {
            point: format!("lr={lr}"),
            config: TrainConfig::default().with(|c| {
                (c.embed, c.epochs, c.lr) = (8, 1, lr);
                c.objective = name.parse().unwrap();
            }),
        })
    });
    let sweep = Sweep::new(variants.collect(), vec![0, 1], None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = |name: &str| folder.path().join(name);
    let run = |device: &Device, out: &std::path::Path| {
        sweep.run(device, dataset.clone(), out, |_| ()).unwrap().to_markdown()
    };
    let table = run(&Device::cpu(), &out("alone"));
    let alone = left(&out("alone"));
    for size in [2, 3] {
        let to = out(&size.to_string());
        assert!(on_ranks(size, |ranks| run(&shared(&ranks), &to)).iter().all(|found| *found == table));
        assert!(left(&to) == alone, "{size} ranks");
    }
    // As if it had been killed after five runs, and a head had been lost.
    let to = out("3");
    let text = std::fs::read_to_string(to.join("results.jsonl")).unwrap();
    let some: Vec<_> = text.split_inclusive('\n').take(6).collect();
    std::fs::write(to.join("results.jsonl"), some.concat()).unwrap();
    std::fs::remove_file(to.join("heads/con-con-1-s1.safetensors"))
        .or_else(|_| std::fs::remove_file(to.join("heads/con-con-2-s1.safetensors")))
        .unwrap();
    assert!(on_ranks(4, |ranks| run(&shared(&ranks), &to)).iter().all(|found| *found == table));
    assert!(left(&to) == alone, "resumed on 4 ranks");
}

#[test]
fn a_sweep_keeps_the_runs_before_one_that_fails() {
    let dataset = Arc::new(example());
    let variants = [1e-3, 2e-3, 3e-3].map(|lr| Variant {
        point: format!("lr={lr}"),
        config: TrainConfig::default().with(|c| (c.embed, c.epochs, c.lr) = (8, 1, lr)),
    });
    let sweep = Sweep::new(variants.to_vec(), vec![0], None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("sweep");
    // A folder stands where the head of the third run is to be written.
    std::fs::create_dir_all(out.join("heads")).unwrap();
    let stop = |done: usize| {
        if done == 0 {
            let _ = std::fs::create_dir_all(out.join("heads").join("cir-sig-ms-3-s0.safetensors/x"));
        }
    };
    let found = on_ranks(3, |ranks| {
        let progress = |progress: wgoal::sweep::SweepProgress| stop(progress.done);
        sweep.run(&shared(&ranks), dataset.clone(), &out, progress).map(drop)
    });
    let errors: Vec<_> = found.into_iter().map(|found| found.unwrap_err().to_string()).collect();
    assert!(
        errors.iter().all(|error| error == &errors[0] && error.contains("cir-sig-ms-3-s0")),
        "{errors:?}"
    );
    assert_eq!(std::fs::read_to_string(out.join("results.jsonl")).unwrap().lines().count(), 3);
}

#[test]
fn the_first_process_hashes_the_features_for_all() {
    let made = |value: f32| {
        let rows: Vec<u64> = (0..6).collect();
        let arrays = Arrays::new()
            .with_features("images", &[6, 1], &[value; 6])
            .with_features("texts", &[6, 1], &[1.0; 6])
            .with_rows("text_to_image", &rows)
            .with_rows("split_train", &rows[..2])
            .with_rows("split_val", &rows[2..4])
            .with_rows("split_test", &rows[4..]);
        Arc::new(Dataset::from_arrays("made", arrays).unwrap())
    };
    let own = [0.5, 1.5, 2.5].map(|value| made(value).content_hash().unwrap());
    assert!(own[0] != own[1] && own[0] != own[2]);
    let config = TrainConfig::default().with(|c| c.embed = 2);
    let found = on_ranks(3, |ranks| {
        let dataset = made(0.5 + ranks.rank() as f32);
        Trainer::new(&shared(&ranks), dataset.clone(), config.clone()).unwrap();
        dataset.content_hash().unwrap()
    });
    assert_eq!(found, [own[0]; 3]);
}
