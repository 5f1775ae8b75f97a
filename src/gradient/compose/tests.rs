//! Strips of any size give the gradient of the whole batch, and what is left out has no part in it.

use super::*;
use crate::device::{Device, Matrix, every_adapter};
use crate::gradient::LeftOut;
use crate::gradient::workspace::Direction;
use crate::math::{Purpose, random};
use crate::objective::{GoalParams, InfonceParams, Logits, Loss, PairWeight, SiglipParams, TripletWeight};
use rand_chacha::rand_core::Rng;

/// Random unit rows, so ties are unlikely.
fn unit_rows([pairs, dim]: [usize; 2], seed: u64) -> Vec<f32> {
    let mut rng = random(Purpose::Analysis, seed, 0, 0);
    let mut values: Vec<_> =
        (0..pairs * dim).map(|_| rng.next_u32() as f32 / (1u32 << 31) as f32 - 1.0).collect();
    for row in values.chunks_exact_mut(dim) {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x /= norm);
    }
    values
}

/// The elements of S that are left out: two of every seventh row.
fn list(pairs: usize) -> Vec<[u32; 2]> {
    let n = pairs as u32;
    (0..n).step_by(7).flat_map(|i| [[i, (i + 1) % n], [i, (i + n / 2) % n]]).collect()
}

/// Image ids of which most occur more than once.
fn image_ids(pairs: usize) -> Vec<u32> {
    (0..pairs as u32).map(|i| i % (pairs as u32 * 2 / 5)).collect()
}

/// Gradients and losses of a batch of `pairs` embeddings of width `dim`, computed in strips of `rows` rows.
fn by_blocks(
    device: &Device,
    objective: &Objective,
    [pairs, dim]: [usize; 2],
    masked: bool,
    rows: usize,
) -> [Vec<f32>; 4] {
    by_strips(device, objective, [pairs, pairs, dim], masked.then(|| image_ids(pairs)), rows)
}

/// The same for `images` images and the texts of `pairs` pairs.
fn by_strips(
    device: &Device,
    objective: &Objective,
    [images, pairs, dim]: [usize; 3],
    ids: Option<Vec<u32>>,
    rows: usize,
) -> [Vec<f32>; 4] {
    let rows_of = |seed: u64| unit_rows([pairs, dim], seed);
    let matrix = |name, values: &[f32]| Matrix::from_rows(device, name, pairs, dim, values).unwrap();
    let mut of_images = rows_of(1);
    of_images[images * dim..].fill(0.0);
    let (x, y) = (matrix("x", &of_images), matrix("y", &rows_of(2)));
    let ids = ids.map(|ids| Buffer::from_slice(device, "ids", &ids).unwrap());
    let logits = Logits { temperature: 0.1, bias: -2.0, has_bias: true, learned: false };
    let logits = Buffer::from_slice(device, "logits", &logits.values()).unwrap();
    let mut left_out = LeftOut::new(device, "left_out").unwrap();
    let inside = list(pairs).into_iter().filter(|[i, _]| (*i as usize) < images).collect();
    left_out.write(device, inside).unwrap();
    let mut workspace = Workspace::with_strip_rows(device, [images, pairs], rows).unwrap();
    let mut gradients = [matrix("dx", &rows_of(3)), matrix("dy", &rows_of(3))];
    let inputs = Inputs {
        images: x.view(),
        texts: y.view(),
        ids: ids.as_ref().map(Buffer::view),
        logits: logits.view(),
        left_out: Some([&left_out; 2]),
        scale: 0.7,
        bank: None,
    };
    let mut commands = device.commands();
    let [dx, dy] = &mut gradients;
    let into = [&mut dx.view_mut(), &mut dy.view_mut()];
    workspace.gradient(&mut commands, objective, inputs, into).unwrap();
    commands.submit().unwrap();
    let read = |matrix: &Matrix| device.wait(matrix.to_rows(device)).unwrap();
    let loss = |direction: &Direction| device.wait(direction.loss.read(device, 0..pairs)).unwrap();
    [read(&gradients[0]), read(&gradients[1]), loss(&workspace.images), loss(&workspace.texts)]
}

/// Similarities in f64, and which of them are left out.
fn similarities([pairs, dim]: [usize; 2]) -> (Vec<Vec<f64>>, impl Fn(usize, usize) -> bool) {
    let (x, y) = (unit_rows([pairs, dim], 1), unit_rows([pairs, dim], 2));
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
    let row = |x: &[f32]| y.chunks_exact(dim).map(|y| dot(x, y)).collect();
    let list = list(pairs);
    (x.chunks_exact(dim).map(row).collect(), move |i, j| list.contains(&[i as u32, j as u32]))
}

/// Losses by their definitions, in which what is left out does not occur.
#[test]
fn what_is_left_out_has_no_part_in_the_loss() {
    const SHAPE: [usize; 2] = [40, 6];
    let ((s, out), n) = (similarities(SHAPE), SHAPE[0]);
    let turned = |i: usize, j: usize| s[j][i];
    // For both directions the similarities of an anchor's negatives, and its positive.
    let anchors = || {
        let of_images = (0..n).map(|i| {
            let others = (0..n).filter(|&j| j != i && !out(i, j));
            (others.map(|j| s[i][j]).collect::<Vec<_>>(), s[i][i])
        });
        let of_texts = (0..n).map(|j| {
            let others = (0..n).filter(|&i| i != j && !out(i, j));
            (others.map(|i| turned(j, i)).collect::<Vec<_>>(), s[j][j])
        });
        of_images.chain(of_texts).collect::<Vec<_>>()
    };
    let open = |n: f64, p: f64| (n - p + 0.2).max(0.0);
    let hinge = |(negatives, p): (Vec<f64>, f64)| open(negatives.into_iter().fold(-1.0, f64::max), p);
    let hinge_sum = |(negatives, p): (Vec<f64>, f64)| negatives.into_iter().map(|n| open(n, p)).sum::<f64>();
    let infonce = |(negatives, p): (Vec<f64>, f64)| {
        let sum: f64 = negatives.into_iter().map(|n| ((n - p) / 0.1).exp()).sum();
        sum.ln_1p() / (2 * n) as f64
    };
    // Each pair of an image and a text occurs in both directions, and counts once.
    let softplus = |z: f64| z.exp().ln_1p();
    let siglip = |(negatives, p): (Vec<f64>, f64)| {
        let sum: f64 = negatives.into_iter().map(|s| softplus(s / 0.1 - 2.0)).sum();
        (sum + softplus(2.0 - p / 0.1)) / (2 * n) as f64
    };
    let total = |of: &dyn Fn((Vec<f64>, f64)) -> f64| anchors().into_iter().map(of).sum::<f64>();
    let temperature = InfonceParams { temperature: 0.1, ..Default::default() };
    for (objective, expected) in [
        (Objective::Hinge { margin: 0.2 }, total(&hinge)),
        (Objective::HingeSum { margin: 0.2 }, total(&hinge_sum)),
        (Objective::Infonce(temperature), total(&infonce)),
        (Objective::Siglip(SiglipParams::default()), total(&siglip)),
    ] {
        let [_, _, it, ti] = by_blocks(&Device::cpu(), &objective, SHAPE, false, n);
        let found: f64 = it.into_iter().chain(ti).map(f64::from).sum();
        assert!((found - expected).abs() <= 1e-5 * expected, "{objective}: {found}, expected {expected}");
    }
}

#[test]
fn what_is_left_out_has_no_part_in_the_gradient() {
    left_out_on([Device::cpu()]);
}

#[test]
#[ignore = "needs an adapter: run scripts/test"]
fn what_is_left_out_has_no_part_in_the_gradient_on_every_adapter() {
    left_out_on(every_adapter());
}

/// Objectives of every kind.
fn beside_what_is_left_out() -> Vec<Objective> {
    let infonce =
        |leave_out| Objective::Infonce(InfonceParams { temperature: 0.1, leave_out, ..Default::default() });
    let siglip = |leave_out| {
        let (temperature, logit_bias) = (0.1, -2.0);
        Objective::Siglip(SiglipParams { temperature, logit_bias, leave_out, ..Default::default() })
    };
    vec![
        "hinge".parse().unwrap(),
        "hinge-sum".parse().unwrap(),
        "cir:sig-ms".parse().unwrap(),
        "nca:lin-ms".parse().unwrap(),
        "con:sig@all".parse().unwrap(),
        "cir:sig-ms@top:3".parse().unwrap(),
        "nca:lin@semi-hard".parse().unwrap(),
        "multi-similarity".parse().unwrap(),
        "lifted".parse().unwrap(),
        infonce(false),
        infonce(true),
        siglip(false),
        siglip(true),
        Objective::Infonce(InfonceParams { temperature: 0.1, log_sum: true, ..Default::default() }),
        "multi-similarity-mined".parse().unwrap(),
        "circle-all".parse().unwrap(),
        "circle-all@text-to-image".parse().unwrap(),
        infonce(true).in_direction(crate::objective::Direction::ImageToText).unwrap(),
        "cir:sig-ms@top:2@text-to-image".parse().unwrap(),
        "hinge-sum@image-to-text".parse().unwrap(),
        "lifted@image-to-text".parse().unwrap(),
        "cir:sig-ms@positives:hardest".parse().unwrap(),
        "nca:lin-ms@positives:mean@top:2".parse().unwrap(),
        "nca:lin@positives:log-sum@semi-hard@text-to-image".parse().unwrap(),
        "con:sig@positives:log-sum@all@image-to-text".parse().unwrap(),
        "hinge-sum@positives:mean".parse().unwrap(),
        "multi-similarity-mined@positives:log-sum".parse().unwrap(),
        "lifted@positives:hardest@image-to-text".parse().unwrap(),
        "circle-all@positives:log-sum".parse().unwrap(),
    ]
}

/// dX = A Y, with the field A in f64 at similarities that lack what is left out; A is 0 there.
fn left_out_on(devices: impl IntoIterator<Item = Device>) {
    const SHAPE: [usize; 2] = [40, 6];
    let ((s, out), [n, dim], y) = (similarities(SHAPE), SHAPE, unit_rows(SHAPE, 2));
    let mut padded: Vec<f64> = s.concat();
    assert_eq!(crate::device::padded(n), n);
    (0..n * n).filter(|&at| out(at / n, at % n)).for_each(|at| padded[at] = crate::kernels::NOTHING.into());
    let objectives = beside_what_is_left_out();
    let ids = image_ids(n);
    for device in devices {
        for (objective, masked) in objectives.iter().flat_map(|o| [(o, false), (o, true)]) {
            let ids = masked.then_some(&ids[..]);
            let field = crate::gradient::Field::at(objective, &padded, n, ids).unwrap();
            let left = (0..n * n).filter(|&at| out(at / n, at % n)).map(|at| field.a[at].abs());
            assert!(left.fold(0.0, f64::max) == 0.0, "{objective}");
            let dx: Vec<f32> = (0..n * dim)
                .map(|at| {
                    let (i, k) = (at / dim, at % dim);
                    0.7 * (0..n).map(|j| field.a[i * n + j] * f64::from(y[j * dim + k])).sum::<f64>()
                })
                .map(|x| x as f32)
                .collect();
            for rows in [n, 16] {
                let [found, ..] = by_blocks(&device, objective, SHAPE, masked, rows);
                let error = furthest(&found, &dx);
                assert!(error <= 2e-5, "{objective} masked {masked}, {rows} rows on {device}: {error:e}");
            }
        }
    }
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    let size = b.iter().fold(1e-6f32, |m, x| m.max(x.abs()));
    a.iter().zip(b).fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs())) / size
}

/// The software adapter computes in strips as large as it accepts. The CPU computes all similarities at once.
#[test]
#[ignore = "needs lavapipe: run scripts/test"]
fn a_batch_of_8000_gives_the_gradient_of_the_whole() {
    const SHAPE: [usize; 2] = [8000, 256];
    let device = crate::device::Adapters::find().open("vulkan:llvmpipe").unwrap();
    let rows = device.strip_rows(SHAPE[0], SHAPE[0], SHAPE[1]).unwrap();
    assert!(rows < SHAPE[0], "{rows} rows at a time");
    for name in ["infonce", "hinge"] {
        let objective: Objective = name.parse().unwrap();
        let strips = by_blocks(&device, &objective, SHAPE, true, rows);
        let whole = by_blocks(&Device::cpu(), &objective, SHAPE, true, SHAPE[0]);
        let errors: Vec<_> =
            strips.iter().zip(&whole).map(|(strips, whole)| furthest(strips, whole)).collect();
        println!("{name}: {errors:?}");
        assert!(errors.iter().all(|&error| error <= 2e-6), "{name}: {errors:?}");
    }
}

#[test]
fn strips_of_several_texts_add_up() {
    captions_add_up_on([Device::cpu()]);
}

#[test]
#[ignore = "needs an adapter: run scripts/test"]
fn strips_of_several_texts_add_up_on_every_adapter() {
    captions_add_up_on(every_adapter());
}

fn captions_add_up_on(devices: impl IntoIterator<Item = Device>) {
    const SHAPE: [usize; 3] = [70, 257, 13];
    let [images, pairs, dim] = SHAPE;
    let ids: Vec<_> = (0..pairs).map(|text| (text % images) as u32).collect();
    for device in devices {
        for name in [
            "infonce",
            "infonce-log-sum",
            "siglip",
            "hinge@positives:mean",
            "nca:sig@positives:hardest@top:2",
            "cir:sig-ms",
            "nca:lin-ms@positives:hardest@top:2",
            "con:sig@positives:log-sum@all",
            "multi-similarity-mined@positives:log-sum",
            "circle-all@positives:log-sum+infonce@text-to-image",
        ] {
            let objective: Objective = name.parse().unwrap();
            let of = |rows| by_strips(&device, &objective, SHAPE, Some(ids.clone()), rows);
            let whole = of(images);
            assert!(whole[2][images..].iter().all(|loss| *loss == 0.0), "{name}: a loss without an image");
            // The loss of a pair of an image and a text counts for the image in SigLIP.
            let texts = whole[3][pairs - 20..].iter().any(|loss| *loss > 0.0);
            assert!(texts != (name == "siglip"), "{name}: losses of texts {texts}");
            for rows in [16, 48] {
                for (side, (part, whole)) in of(rows).iter().zip(&whole).enumerate() {
                    // There is no image after the last.
                    let len = if side == 0 { images * dim } else { whole.len() };
                    let error = furthest(&part[..len], &whole[..len]);
                    assert!(error <= 5e-6, "{name}, {rows} rows, {side} on {device}: {error:e}");
                }
            }
        }
    }
}

#[test]
fn blocks_add_up_to_the_whole() {
    blocks_add_up_on([Device::cpu()]);
}

#[test]
#[ignore = "needs an adapter: run scripts/test"]
fn blocks_add_up_to_the_whole_on_every_adapter() {
    blocks_add_up_on(every_adapter());
}

fn blocks_add_up_on(devices: impl IntoIterator<Item = Device>) {
    let goal = |triplet, pair| Objective::Goal(triplet, pair, GoalParams::default());
    let objectives = [
        goal(TripletWeight::Con, PairWeight::Lin),
        goal(TripletWeight::Nca, PairWeight::LinMs),
        goal(TripletWeight::Cir, PairWeight::SigMs),
        Objective::Hinge { margin: 0.2 },
        Objective::HingeSum { margin: 0.2 },
        Objective::Loss(Loss::MultiSimilarity, Loss::MultiSimilarity.params()),
        Objective::Loss(Loss::Lifted, Loss::Lifted.params()),
        Objective::Infonce(InfonceParams::default()),
        Objective::Infonce(InfonceParams { leave_out: true, ..Default::default() }),
        "siglip".parse().unwrap(),
        "siglip-masked".parse().unwrap(),
        "circle-all".parse().unwrap(),
        "infonce-log-sum".parse().unwrap(),
        "multi-similarity-mined".parse().unwrap(),
        "infonce@text-to-image+0.5*nca:lin@semi-hard@image-to-text".parse().unwrap(),
        "cir:sig-ms@top:3".parse().unwrap(),
        "nca:lin@semi-hard".parse().unwrap(),
        "infonce+0.5*cir:con@top:2+2*cir:sig@all".parse().unwrap(),
        "cir:sig-ms@positives:hardest@top:2".parse().unwrap(),
        "nca:lin@positives:log-sum@semi-hard+0.5*hinge-sum@positives:mean".parse().unwrap(),
        "multi-similarity-mined@positives:log-sum".parse().unwrap(),
        "circle-all@positives:log-sum".parse().unwrap(),
    ];
    for device in devices {
        for (objective, masked) in objectives.iter().flat_map(|o| [(o, false), (o, true)]) {
            let whole = by_blocks(&device, objective, [257, 13], masked, 257);
            let largest = whole[0].iter().fold(0.0f32, |m, x| m.max(x.abs()));
            assert!(largest > 0.0 && largest.is_finite());
            for rows in [16, 48, 64, 192] {
                let parts = by_blocks(&device, objective, [257, 13], masked, rows);
                for (part, whole) in parts.iter().zip(&whole) {
                    let error = furthest(part, whole);
                    assert!(error <= 5e-6, "{objective} masked {masked}, {rows} rows on {device}: {error:e}");
                }
            }
        }
    }
}
