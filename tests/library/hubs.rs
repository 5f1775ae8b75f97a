//! The correction for hubs, through the public API.

use std::sync::Arc;
use wgoal::data::RowList;
use wgoal::eval::{BANK, Correction, Evaluation, Hubness, HubnessCorrection, Truth};
use wgoal::model::Side;
use wgoal::objective::EqualCaptions;
use wgoal::train::{Baseline, ClosedForm};
use wgoal::{Checkpoint, Dataset, Device, ErrorKind, Head, Split, TrainConfig};

/// CCA on the example dataset.
fn cca(dataset: &Dataset) -> Head {
    let config = TrainConfig::default().with(|c| c.embed = 24);
    Baseline::fit(ClosedForm::Cca, &Device::cpu(), dataset, &config, &[0.3]).unwrap().head
}

fn example() -> Arc<Dataset> {
    Arc::new(Dataset::open("data/clipart-mini").unwrap())
}

/// The largest difference between a product of rows of this width in f32 and in f64, and of a mean of such products.
const ROUNDING: f64 = 1e-5;

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[test]
fn the_inner_product_of_the_vectors_is_the_corrected_score() {
    let (device, dataset) = (Device::cpu(), example());
    let (head, dim) = (cca(&dataset), 24);
    let train = dataset.split(Split::Train);
    let embed = |side, rows: &RowList| head.embed(&device, &dataset, side, rows).unwrap();
    let first = |rows: &RowList, count| rows.between(0..count).collect();
    let bank = [embed(Side::Image, &first(&train.images, 50)), embed(Side::Text, &first(&train.texts, 70))];
    let test = dataset.split(Split::Test);
    let (images, texts) = (embed(Side::Image, &test.images), embed(Side::Text, &test.texts));
    let weights = [0.25, 0.5];
    let kinds = [Hubness::Csls { k: 4 }, Hubness::InvertedSoftmax { temperature: 0.1 }];
    for kind in kinds {
        let correction = HubnessCorrection::new(kind, weights, [&bank[0], &bank[1]], dim).unwrap();
        // The definition, in f64.
        let hubness = |row: &[f32], side: Side| {
            let mut s: Vec<f64> =
                correction.bank(side).chunks_exact(dim).map(|other| dot(row, other)).collect();
            s.sort_by(|a, b| b.total_cmp(a));
            match kind {
                Hubness::Csls { k } => s[..k].iter().sum::<f64>() / k as f64,
                Hubness::InvertedSoftmax { temperature } => {
                    let t = f64::from(temperature);
                    t * (s.iter().map(|s| (s / t).exp()).sum::<f64>() / s.len() as f64).ln()
                }
                _ => unreachable!(),
            }
        };
        let left = correction.vectors(&device, Side::Image, &images).unwrap();
        let right = correction.vectors(&device, Side::Text, &texts).unwrap();
        assert_eq!((correction.width(), left.len()), (dim + 2, test.images.len() * (dim + 2)));
        for (i, (x, from)) in left.chunks_exact(dim + 2).zip(images.chunks_exact(dim)).enumerate().step_by(7)
        {
            let a = 0.25 * hubness(from, Side::Text);
            for (j, (y, from_text)) in
                right.chunks_exact(dim + 2).zip(texts.chunks_exact(dim)).enumerate().step_by(11)
            {
                let expected = dot(from, from_text) - a - 0.5 * hubness(from_text, Side::Image);
                let found = dot(x, y);
                assert!((found - expected).abs() < ROUNDING, "{kind} {i} {j}: {found} {expected}");
            }
        }
    }
}

#[test]
fn a_corrected_score_does_not_change_when_other_items_are_removed() {
    let (device, dataset) = (Device::cpu(), example());
    let head = cca(&dataset);
    let fitted = fit(&head, &dataset, Correction::Auto);
    let correction = fitted.correction.expect("a correction that helps on validation");
    let width = correction.width();
    let test = dataset.split(Split::Test);
    let vectors = |side, rows: &RowList| {
        let embeddings = head.embed(&device, &dataset, side, rows).unwrap();
        correction.vectors(&device, side, &embeddings).unwrap()
    };
    let all = [vectors(Side::Image, &test.images), vectors(Side::Text, &test.texts)];
    for (side, rows) in [(Side::Image, &test.images), (Side::Text, &test.texts)] {
        for step in [2, 3, 50] {
            let some = rows.iter().step_by(step).collect();
            let alone = vectors(side, &some);
            let expected = all[side as usize].chunks_exact(width).step_by(step);
            assert!(alone.chunks_exact(width).eq(expected), "{side:?}, every {step}th");
        }
    }
}

fn fit(head: &Head, dataset: &Dataset, choice: Correction) -> wgoal::eval::Fitted {
    let equal = EqualCaptions::default();
    HubnessCorrection::fit(&Device::cpu(), head, dataset, equal, choice, BANK, 0).unwrap()
}

#[test]
fn validation_chooses_the_correction_and_its_recall_is_that_of_the_vectors() {
    let (device, dataset) = (Device::cpu(), example());
    let head = cca(&dataset);
    let plain = head.recall(&device, &dataset, Split::Val, 1, EqualCaptions::default()).unwrap();
    let none = fit(&head, &dataset, Correction::None);
    assert_eq!((none.correction, none.plain, none.corrected), (None, plain, plain));
    let auto = fit(&head, &dataset, Correction::Auto);
    for choice in [Correction::Csls, Correction::InvertedSoftmax] {
        let fitted = fit(&head, &dataset, choice);
        assert!(fitted.plain == plain && fitted.corrected.rsum >= plain.rsum, "{choice}");
        let correction = fitted.correction.as_ref().unwrap();
        let [image, text] = correction.weights();
        assert!(image == text && image > 0.0, "{choice}");
        // 150 validation images choose the weight alone.
        assert_eq!(
            correction.hubness(),
            match choice {
                Correction::Csls => Hubness::Csls { k: 10 },
                _ => Hubness::InvertedSoftmax { temperature: 0.1 },
            }
        );
        assert_eq!(auto == fitted, choice == Correction::InvertedSoftmax);
    }
    assert!(auto.corrected.rsum > plain.rsum);
    let checkpoint = Checkpoint::of(head.clone(), &dataset, TrainConfig::default()).unwrap();
    let checkpoint = checkpoint.with_correction(auto.correction.unwrap()).unwrap();
    let rows = dataset.split(Split::Val);
    let embed = |side, rows: &RowList| checkpoint.embed(&device, &dataset, side, rows).unwrap();
    let (images, texts) = (embed(Side::Image, &rows.images), embed(Side::Text, &rows.texts));
    let truth = Truth::of_split(&dataset, Split::Val, EqualCaptions::default()).unwrap();
    let found = Evaluation::folds(&device, &images, &texts, checkpoint.width(), &truth, 1, &[]).unwrap();
    assert_eq!(found.recall, auto.corrected);
    assert_eq!(checkpoint.recall(&device, &dataset, Split::Val, 1).unwrap(), auto.corrected);
    // A small bank is a sample.
    let small =
        HubnessCorrection::fit(&device, &head, &dataset, EqualCaptions::Off, Correction::Csls, 100, 0);
    let bank = small.unwrap().correction.map(|small| [Side::Image, Side::Text].map(|side| small.items(side)));
    assert!(bank.is_none_or(|bank| bank == [100, 100]), "{bank:?}");
}

#[test]
fn a_correction_comes_back_from_the_file_of_its_head() {
    let dataset = example();
    let head = cca(&dataset);
    let correction = fit(&head, &dataset, Correction::Csls).correction.unwrap();
    let plain = Checkpoint::of(head, &dataset, TrainConfig::default()).unwrap();
    let corrected = plain.clone().with_correction(correction).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("head.safetensors");
    corrected.save(&path).unwrap();
    assert_eq!(Checkpoint::load(&path).unwrap(), corrected);
    assert_eq!(corrected.without_correction(), plain);
    assert_eq!(&Head::load(&path).unwrap(), plain.head());
    plain.save(&path).unwrap();
    assert_eq!(Checkpoint::load(&path).unwrap().correction(), None);
}

#[test]
fn a_correction_that_cannot_be_used_is_an_error() {
    let rows = [1.0, 0.0, 0.0, 1.0];
    let new = |kind, weights, bank: [&[f32]; 2]| HubnessCorrection::new(kind, weights, bank, 2);
    let csls = Hubness::Csls { k: 1 };
    assert!(new(csls, [0.0, 1.0], [&rows, &rows[..2]]).is_ok());
    for (wrong, expected) in [
        (new(Hubness::Csls { k: 0 }, [0.0; 2], [&rows; 2]), "1 neighbour or more"),
        (new(Hubness::InvertedSoftmax { temperature: 0.0 }, [0.0; 2], [&rows; 2]), "temperature above 0"),
        (new(csls, [f32::NAN, 0.0], [&rows; 2]), "finite weights"),
        (new(csls, [0.0; 2], [&[], &rows]), "rows of width 2"),
        (new(csls, [0.0; 2], [&rows[..3], &rows]), "rows of width 2"),
        (new(csls, [0.0; 2], [&[f32::INFINITY, 0.0], &rows]), "unit rows"),
    ] {
        let error = wrong.unwrap_err();
        assert!(error.kind() == ErrorKind::Config && error.to_string().contains(expected), "{error}");
    }
    let correction = new(csls, [0.0; 2], [&rows; 2]).unwrap();
    let error = correction.penalties(&Device::cpu(), Side::Image, &[1.0; 3]).unwrap_err();
    assert!(error.to_string().contains("rows of width 2"), "{error}");
}
