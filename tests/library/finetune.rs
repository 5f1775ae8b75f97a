//! What keeps a head near its start: the moving average of its weights.

use crate::random::Random;
use wgoal::model::{HeadConfig, ImageEncoder};
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
        c.image_encoder = ImageEncoder::ResidualMlp;
        c.random_features = 11;
    });
    let config = TrainConfig::default().with(|c| {
        c.embed = 4;
        c.objective = "infonce".parse().unwrap();
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
        if name == "temperature" {
            expected = vec![f64::from(heads[12].temperature())];
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
