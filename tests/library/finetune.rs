//! What keeps a head near its start: the moving average of its weights, factors of the learning rate, and the pull
//! towards the start.

use crate::random::Random;
use wgoal::data::Side;
use wgoal::model::{EncoderKind, HeadConfig};
use wgoal::optim::{Optimizer, Sgd};
use wgoal::train::Features;
use wgoal::{Device, Head, Pipeline, TrainConfig};

const PAIRS: usize = 6;
const DIMS: [usize; 2] = [9, 7];

/// The weights of a run of `steps` steps before each step and after the last one, and the pipeline.
fn trained(config: &TrainConfig, head: &HeadConfig, steps: usize) -> (Vec<Head>, Pipeline) {
    let head = Head::for_config(DIMS[0], DIMS[1], head, 5).unwrap();
    let mut pipeline = Pipeline::new(&Device::cpu(), head.clone(), config, PAIRS).unwrap();
    let mut heads = vec![head];
    let mut random = Random::new(7);
    for _ in 0..steps {
        let [images, texts] = DIMS.map(|dim| random.values(PAIRS * dim));
        let batch = Features { images: &images, texts: &texts, ids: &[0, 1, 2, 3, 4, 5] };
        pipeline.step(batch, &config.objective, 0.01).unwrap();
        heads.push(pipeline.head().unwrap());
    }
    (heads, pipeline)
}

#[test]
fn the_average_is_that_of_the_weights_after_each_step() {
    let parts = HeadConfig::default().with(|c| {
        c.embed = 4;
        c.image_encoder = EncoderKind::ResidualMlp;
        c.random_features = 11;
    });
    let config = TrainConfig::default().with(|c| {
        c.embed = 4;
        c.objective = "siglip".parse().unwrap();
        c.ema = 0.6;
    });
    let (heads, pipeline) = trained(&config, &parts, 12);
    let averaged = pipeline.averaged().unwrap();
    for (name, _) in averaged.parameters() {
        let get = |head: &Head| head.parameter(&name).unwrap();
        let mut expected: Vec<f64> = get(&heads[0]).into_iter().map(f64::from).collect();
        for (step, head) in heads.iter().enumerate().skip(1) {
            let step = step as f64;
            let share = 1.0 - 0.6f64.min((1.0 + step) / (10.0 + step));
            let newest = get(head);
            expected.iter_mut().zip(newest).for_each(|(sum, x)| *sum += share * (f64::from(x) - *sum));
        }
        // What the logits need is not averaged.
        if ["temperature", "logit_bias"].contains(&&name[..]) {
            expected = get(&heads[12]).into_iter().map(f64::from).collect();
        }
        for (found, expected) in get(&averaged).into_iter().zip(expected) {
            // Every step rounds once, to half of the last bit of a value below 2.
            let close = (f64::from(found) - expected).abs() <= 12.0 * f64::from(f32::EPSILON);
            assert!(close, "{name}: {found}, expected {expected}");
        }
    }
    // The weights themselves are those without an average.
    let (plain, without) = trained(&config.clone().with(|c| c.ema = 0.0), &parts, 12);
    assert_eq!(plain[12], heads[12]);
    assert_eq!(without.averaged().unwrap(), plain[12]);
    assert_ne!(averaged, plain[12]);
}

/// Plain gradient descent, so that a step changes a weight by the gradient times the learning rate.
fn descent(change: impl FnOnce(&mut TrainConfig)) -> TrainConfig {
    TrainConfig::default().with(|c| {
        c.embed = 4;
        c.objective = "infonce".parse().unwrap();
        c.optimizer = Optimizer::Sgd(Sgd::default().with(|sgd| sgd.momentum = 0.0));
        c.weight_decay = 0.0;
        change(c);
    })
}

#[test]
fn a_factor_scales_the_steps_of_its_part_alone() {
    let parts = HeadConfig::default().with(|c| {
        c.embed = 4;
        c.image_encoder = EncoderKind::ResidualMlp;
        c.random_features = 11;
    });
    let (whole, _) = trained(&descent(|_| ()), &parts, 1);
    for (change, part) in [
        (descent(|c| c.lr_linear = 0.25), [".weight", ".bias"].as_slice()),
        (descent(|c| c.lr_random_features = 0.25), &[".fourier.weight"]),
        (
            descent(|c| c.lr_mlp = 0.25),
            &[".mlp.first.weight", ".mlp.second.weight", ".mlp.second.bias", ".mlp.norm"],
        ),
    ] {
        let (slower, _) = trained(&change, &parts, 1);
        for (name, _) in whole[0].parameters() {
            let [start, full, part_step] =
                [&whole[0], &whole[1], &slower[1]].map(|h| h.parameter(&name).unwrap());
            let own =
                part.iter().any(|part| ["image", "text"].iter().any(|side| name == format!("{side}{part}")));
            for ((start, full), found) in start.iter().zip(full).zip(part_step) {
                let expected = if own { start + 0.25 * (full - start) } else { full };
                // Weights are below 2, so a rounded sum is wrong by at most half of their last bit.
                assert!(
                    (found - expected).abs() <= 2.0 * f32::EPSILON,
                    "{name}: {found}, expected {expected}"
                );
            }
        }
    }
    let (frozen, _) = trained(&descent(|c| (c.lr_linear, c.l2_sp) = (0.0, 1.0)), &parts, 3);
    assert_eq!(frozen[3].side(Side::Text), frozen[0].side(Side::Text));
    let moved = |head: &Head| head.parameter("text.fourier.weight").unwrap();
    assert_ne!(moved(&frozen[3]), moved(&frozen[0]));
}

#[test]
fn weights_are_pulled_towards_their_start() {
    let parts = HeadConfig::default().with(|c| c.embed = 4);
    let strength = 20.0;
    let (free, _) = trained(&descent(|_| ()), &parts, 1);
    let (pulled, _) = trained(&descent(|c| c.l2_sp = strength), &parts, 2);
    // In the first step the weights are at their start.
    assert_eq!(free[1], pulled[1]);
    // The second step starts from the same weights, and adds a pull of learning rate times strength.
    let (again, _) = trained(&descent(|_| ()), &parts, 2);
    for name in ["image.weight", "image.bias", "text.weight", "text.bias"] {
        let [start, before, free, pulled] =
            [&free[0], &free[1], &again[2], &pulled[2]].map(|head| head.parameter(name).unwrap());
        for k in 0..start.len() {
            let expected = free[k] + 0.01 * strength as f32 * (start[k] - before[k]);
            assert!((pulled[k] - expected).abs() <= 4.0 * f32::EPSILON, "{name}: {} {expected}", pulled[k]);
        }
    }
}
