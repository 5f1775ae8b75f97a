//! Compares with golden vectors of the published code (tests/golden), through the public API, on every device.

#[path = "../golden/vectors.rs"]
mod vectors;

use crate::common::{Outcome, Suite, check};
use libtest_mimic::Failed;
use std::path::PathBuf;
use vectors::Golden;
use wgoal::data::Side;
use wgoal::gradient::GradientOptions;
use wgoal::model::{EncoderKind, Pooling};
use wgoal::objective::{GoalParams, InfonceParams, PairWeight, SiglipParams, TripletWeight};
use wgoal::optim::Optimizer;
use wgoal::pooling::Gpo;
use wgoal::train::Features;
use wgoal::{Device, Head, Objective, Pipeline, TrainConfig};

/// Opens a file of tests/golden.
fn open(name: &str) -> Result<Golden, Failed> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    Ok(Golden::of(std::fs::read(path)?)?)
}

fn near(what: &str, found: &[f32], expected: &[f64], allowed: f64) -> Outcome {
    Ok(vectors::near(what, found, expected, allowed)?)
}

fn goal(device: &Device, file: &str) -> Outcome {
    Ok(device.wait(vectors::goal(device, open(file)?))?)
}

fn hinge(device: &Device) -> Outcome {
    Ok(device.wait(vectors::hinge(device, open("hinge_N8_D64.npz")?))?)
}

fn infonce(device: &Device) -> Outcome {
    Ok(device.wait(vectors::infonce(device, open("infonce_N8_D64.npz")?))?)
}

/// With two pairs there is only one negative, so the hinge on the hardest negative equals the hinge over all. This also
/// holds if that negative is as dissimilar as the own pair's −1 in GOAL's mining, or more.
fn hinge_far_negatives(device: &Device) -> Outcome {
    let cases: [(&[f32], &[f32], usize, f32); 3] = [
        (&[1.0, 0.0, 1.0, 0.0], &[-1.0, 0.0, -1.0, 0.0], 2, 0.8),
        (&[5.0, 5.0], &[-1.0, -1.0], 1, 0.8),
        (&[1.0], &[-1.0], 1, 0.0),
    ];
    for (x, y, dim, loss) in cases {
        let of = |objective: Objective| {
            objective.gradients(device, (x, dim), (y, dim), GradientOptions::default())
        };
        let goal = GoalParams::default().with(|c| c.margin = Some(0.2));
        let all = of(Objective::HingeSum { margin: 0.2 })?;
        for objective in
            [Objective::Hinge { margin: 0.2 }, Objective::Goal(TripletWeight::Con, PairWeight::Con, goal)]
        {
            let g = of(objective.clone())?;
            check(
                (g.loss - loss).abs() < 1e-6 && (all.loss - loss).abs() < 1e-6,
                format!("{objective}: loss {}", g.loss),
            )?;
            check(
                g.images == all.images && g.texts == all.texts,
                format!("{objective}: {:?} {:?}", g.images, all.images),
            )?;
        }
    }
    Ok(())
}

/// The vectors are those of open_clip's SigLipLoss. With several captions of an image, its labels are 1 for all of them.
fn siglip(device: &Device) -> Outcome {
    let mut golden = open("siglip_N8_D64.npz")?;
    let ids: Vec<u32> = golden.values("idx")?.into_iter().map(|x| x as u32).collect();
    let (x, y) = (golden.floats("x")?, golden.floats("y")?);
    let (raw_x, raw_y) = (golden.floats("raw_img")?, golden.floats("raw_txt")?);
    for case in 0..2 {
        let temperature = golden.scalar(&format!("temperature{case}"))? as f32;
        let logit_bias = golden.scalar(&format!("logit_bias{case}"))? as f32;
        let objective = Objective::Siglip(SiglipParams::default().with(|c| {
            c.temperature = temperature;
            c.logit_bias = logit_bias;
        }));
        for (ids, suffix) in [(None, ""), (Some(&ids[..]), "_idx")] {
            let options = GradientOptions::default().with(|c| c.ids = ids);
            let g = objective.gradients(device, (&x, 64), (&y, 64), options)?;
            let mut of = |name: &str| golden.values(&format!("{name}{case}{suffix}"));
            near("images", &g.images, &of("G_img")?, 5e-6)?;
            near("texts", &g.texts, &of("G_txt")?, 5e-6)?;
            near("loss", &[g.loss], &of("loss")?, 5e-6)?;
            near("temperature", &[g.temperature], &of("G_temp")?, 5e-6)?;
            near("logit bias", &[g.logit_bias], &of("G_bias")?, 5e-6)?;
        }
        let options = GradientOptions::default().with(|c| c.normalize = true);
        let g = objective.gradients(device, (&raw_x, 64), (&raw_y, 64), options)?;
        near("raw images", &g.images, &golden.values(&format!("Graw_img{case}"))?, 5e-6)?;
        near("raw texts", &g.texts, &golden.values(&format!("Graw_txt{case}"))?, 5e-6)?;
    }
    Ok(())
}

/// Ten training steps from given weights end where the reference ends, with the same losses and norms on the way.
fn ten_steps(device: &Device) -> Outcome {
    let mut golden = open("ten_steps.npz")?;
    let given = golden.values("config")?;
    let (shape, images) = golden.array("images")?;
    let [steps, pairs, p] = shape[..] else { return Err("images are not of rank 3".into()) };
    let (shape, texts) = golden.array("texts")?;
    let (q, embed) = (shape[2], golden.array("w_image0")?.0[0]);
    let floats = |values: &[f64]| values.iter().map(|&x| x as f32).collect::<Vec<_>>();
    let (images, texts) = (floats(&images), floats(&texts));
    let goal = GoalParams::default().with(|c| {
        c.tau = given[7] as f32;
        c.alpha = given[8] as f32;
        c.beta = given[9] as f32;
        c.lambda = given[10] as f32;
    });
    for (name, objective) in [
        ("hinge", Objective::Hinge { margin: given[6] as f32 }),
        ("con_x_con", Objective::Goal(TripletWeight::Con, PairWeight::Con, goal)),
        ("cir_x_sig_ms", Objective::Goal(TripletWeight::Cir, PairWeight::SigMs, goal)),
        ("nca_x_lin", Objective::Goal(TripletWeight::Nca, PairWeight::Lin, goal)),
        ("infonce", Objective::Infonce(InfonceParams::default())),
    ] {
        let config = TrainConfig::default().with(|c| {
            c.objective = objective.clone();
            c.optimizer = Optimizer::AdamW(wgoal::optim::AdamW::default().with(|c| {
                c.beta1 = given[1];
                c.beta2 = given[2];
                c.epsilon = given[3];
            }));
            c.weight_decay = given[4];
            c.clip = given[5] as f32;
            c.mask_same_image = false;
        });
        let mut head = Head::new(p, q, embed, 0)?;
        head.set_side(Side::Image, &golden.floats("w_image0")?, &vec![0.0; embed])?;
        head.set_side(Side::Text, &golden.floats("w_text0")?, &vec![0.0; embed])?;
        let mut pipeline = Pipeline::new(device, head, &config, pairs)?;
        for step in 0..steps {
            let images = &images[step * pairs * p..][..pairs * p];
            let texts = &texts[step * pairs * q..][..pairs * q];
            pipeline.step(Features { images, texts, ids: &[] }, &objective, given[0])?;
        }
        let records = pipeline.records()?;
        let losses: Vec<f32> = records.iter().map(|r| r.loss).collect();
        let norms: Vec<f32> = records.iter().map(|r| r.gradient_norm).collect();
        near(&format!("{name} losses"), &losses, &golden.values(&format!("{name}.loss"))?, 1e-4)?;
        near(&format!("{name} norms"), &norms, &golden.values(&format!("{name}.grad_norm"))?, 1e-4)?;
        let head = pipeline.head()?;
        for (side, suffix) in [(Side::Image, "image"), (Side::Text, "text")] {
            let (weight, bias) = head.side(side);
            near(&format!("{name} W"), &weight, &golden.values(&format!("{name}.w_{suffix}"))?, 1e-4)?;
            near(&format!("{name} b"), &bias, &golden.values(&format!("{name}.b_{suffix}"))?, 1e-4)?;
        }
    }
    Ok(())
}

/// The directions of a GRU's parameter; forward comes first.
fn directions(golden: &mut Golden, name: &str) -> Result<[Vec<f32>; 2], Failed> {
    Ok([golden.floats(name)?, golden.floats(&format!("{name}_reverse"))?])
}

fn lengths(golden: &mut Golden) -> Result<Vec<u32>, Failed> {
    Ok(golden.values("lengths")?.into_iter().map(|x| x as u32).collect())
}

/// The pooling operator: its value, its weights, and its gradients at features and parameters.
fn gpo(device: &Device) -> Outcome {
    let mut golden = open("gpo_small.npz")?;
    let dim = golden.array("features")?.0[2];
    let (features, lengths) = (golden.floats("features")?, lengths(&mut golden)?);
    let shape = golden.array("W_gru_weight_ih_l0")?.0;
    let mut gpo = Gpo::new(shape[1], shape[0] / 3, 0)?;
    gpo.weight_ih = directions(&mut golden, "W_gru_weight_ih_l0")?;
    gpo.weight_hh = directions(&mut golden, "W_gru_weight_hh_l0")?;
    gpo.bias_ih = directions(&mut golden, "W_gru_bias_ih_l0")?;
    gpo.bias_hh = directions(&mut golden, "W_gru_bias_hh_l0")?;
    gpo.v = golden.floats("W_linear_weight")?;
    let pooled = gpo.pool(device, &features, &lengths, dim)?;
    near("pooled", &pooled.features, &golden.values("pooled")?, POOLING)?;
    near("weights", &pooled.weights, &golden.values("weights")?, POOLING)?;
    let g = gpo.pool_backward(device, &features, &lengths, dim, &golden.floats("upstream")?)?;
    near("features", &g.features, &golden.values("G_features")?, POOLING)?;
    for (name, found) in [
        ("weight_ih", &g.gpo.weight_ih),
        ("weight_hh", &g.gpo.weight_hh),
        ("bias_ih", &g.gpo.bias_ih),
        ("bias_hh", &g.gpo.bias_hh),
    ] {
        for (found, suffix) in found.iter().zip(["", "_reverse"]) {
            let name = format!("G_gru_{name}_l0{suffix}");
            near(&name, found, &golden.values(&name)?, POOLING)?;
        }
    }
    near("v", &g.gpo.v, &golden.values("G_linear_weight")?, POOLING)
}

/// The allowed error of pooling and of the image encoder.
const POOLING: f64 = 5e-6;

/// The parameters of the image encoder in wgoal and in the file. The file stores the directions of the GRU separately,
/// and scale and shift too.
const ENCODER: [(&str, [&str; 2]); 12] = [
    ("image.weight", ["fc_weight", ""]),
    ("image.bias", ["fc_bias", ""]),
    ("image.mlp.first.weight", ["mlp_layers_0_weight", ""]),
    ("image.mlp.first.bias", ["mlp_layers_0_bias", ""]),
    ("image.mlp.norm", ["mlp_bns_0_weight", "mlp_bns_0_bias"]),
    ("image.mlp.second.weight", ["mlp_layers_1_weight", ""]),
    ("image.mlp.second.bias", ["mlp_layers_1_bias", ""]),
    ("image.gpo.weight_ih", ["gpool_gru_weight_ih_l0", "gpool_gru_weight_ih_l0_reverse"]),
    ("image.gpo.weight_hh", ["gpool_gru_weight_hh_l0", "gpool_gru_weight_hh_l0_reverse"]),
    ("image.gpo.bias_ih", ["gpool_gru_bias_ih_l0", "gpool_gru_bias_ih_l0_reverse"]),
    ("image.gpo.bias_hh", ["gpool_gru_bias_hh_l0", "gpool_gru_bias_hh_l0_reverse"]),
    ("image.gpo.v", ["gpool_linear_weight", ""]),
];

fn stacked(golden: &mut Golden, prefix: &str, names: [&str; 2]) -> Result<Vec<f64>, Failed> {
    let mut values = Vec::new();
    for name in names.iter().filter(|name| !name.is_empty()) {
        values.extend(golden.values(&format!("{prefix}_{name}"))?);
    }
    Ok(values)
}

/// VSE-infinity's image encoder: evaluation, training, gradients and running statistics.
fn image_encoder(device: &Device) -> Outcome {
    let mut golden = open("image_encoder_small.npz")?;
    let shape = golden.array("W_fc_weight")?.0;
    let config = TrainConfig::default().with(|c| {
        c.embed = shape[0];
        c.image_pooling = Pooling::Gpo;
        c.image_encoder = EncoderKind::ResidualMlp;
    });
    let mut head = Head::for_config(shape[1], 1, &config.head(), config.seed)?;
    for (name, names) in ENCODER {
        let values: Vec<f32> = stacked(&mut golden, "W", names)?.into_iter().map(|x| x as f32).collect();
        head.set_parameter(name, &values)?;
    }
    let running = ["mlp_bns_0_running_mean", "mlp_bns_0_running_var"];
    let before: Vec<f32> = stacked(&mut golden, "W", running)?.into_iter().map(|x| x as f32).collect();
    head.set_parameter("image.mlp.running", &before)?;
    let (features, lengths) = (golden.floats("features")?, lengths(&mut golden)?);
    let evaluated = head.encode(device, Side::Image, &features, &lengths)?;
    near("out_eval", &evaluated, &golden.values("out_eval")?, POOLING)?;
    let upstream = golden.floats("upstream")?;
    let g = head.encode_backward(device, Side::Image, &features, &lengths, &upstream)?;
    near("out_train", &g.embeddings, &golden.values("out_train")?, POOLING)?;
    near("features", &g.features, &golden.values("G_features")?, POOLING)?;
    for (name, names) in ENCODER {
        let mut expected = stacked(&mut golden, "G", names)?;
        if name == "image.mlp.first.bias" {
            // Batch norm cancels this bias, so the gradient in the reference is only rounding.
            check(expected.iter().all(|g| g.abs() < 1e-15), format!("{expected:?}"))?;
            expected.fill(0.0);
        }
        near(name, &g.gradient.parameter(name)?, &expected, POOLING)?;
    }
    let expected = stacked(&mut golden, "after", running)?;
    near("running", &g.head.parameter("image.mlp.running")?, &expected, POOLING)
}

pub fn tests(suite: &mut Suite) {
    suite.each("goal_edge_n1", |d| goal(d, "goal_edge_n1.npz"));
    suite.each("goal_edge_ties_d4", |d| goal(d, "goal_edge_ties_d4.npz"));
    suite.each("goal_N3_D5_s0", |d| goal(d, "goal_N3_D5_s0.npz"));
    suite.each("goal_N8_D5_s1", |d| goal(d, "goal_N8_D5_s1.npz"));
    suite.each("goal_N8_D64_s0_alt", |d| goal(d, "goal_N8_D64_s0_alt.npz"));
    suite.each("goal_N37_D5_s0", |d| goal(d, "goal_N37_D5_s0.npz"));
    suite.each("goal_N37_D64_s0", |d| goal(d, "goal_N37_D64_s0.npz"));
    suite.each("hinge_N8_D64", hinge);
    suite.each("hinge_far_negatives", hinge_far_negatives);
    suite.each("infonce_N8_D64", infonce);
    suite.each("siglip_N8_D64", siglip);
    suite.each("gpo_small", gpo);
    suite.each("image_encoder_small", image_encoder);
    suite.each("ten_steps", ten_steps);
}
