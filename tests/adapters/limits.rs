//! Runs the whole pipeline under the limits of other devices. Nothing is computed: wgpu checks every buffer, binding,
//! pipeline and dispatch against the limits, and any violation is an error.

use crate::common::random::Random;
use crate::common::{Outcome, Suite};
use wgoal::device::Adapters;
use wgoal::device::DeviceKind;
use wgoal::gradient::GradientOptions;
use wgoal::model::{EncoderKind, Pooling, Side};
use wgoal::objective::InfonceParams;
use wgoal::pooling::Gpo;
use wgoal::train::Features;
use wgoal::{Dataset, Device, Head, Objective, Pipeline, Recall, TrainConfig, Trainer};
use wgpu::Limits;

const MIB: u64 = 1 << 20;

/// The limits of an imitated device, as far as compute shaders need them. The other limits are WebGPU's defaults.
struct Profile {
    name: &'static str,
    kind: DeviceKind,
    storage_buffers: u32,
    /// The largest storage binding and the largest buffer.
    bytes: [u64; 2],
    workgroup_memory: u32,
    invocations: u32,
    /// The alignment of uniform and of storage bindings.
    alignment: [u32; 2],
    /// Why the device must be refused, if so.
    refused: Option<&'static str>,
}

const fn profile(name: &'static str, kind: DeviceKind, storage_buffers: u32, bytes: [u64; 2]) -> Profile {
    let (workgroup_memory, invocations, alignment) = (16 << 10, 256, [256, 256]);
    Profile { name, kind, storage_buffers, bytes, workgroup_memory, invocations, alignment, refused: None }
}

impl Profile {
    const fn workgroup(self, workgroup_memory: u32, invocations: u32) -> Self {
        Self { workgroup_memory, invocations, ..self }
    }

    const fn aligned(self, uniform: u32, storage: u32) -> Self {
        Self { alignment: [uniform, storage], ..self }
    }

    const fn refused(self, why: &'static str) -> Self {
        Self { refused: Some(why), ..self }
    }
}

use DeviceKind::{Discrete, Integrated, Other, Software};

/// Limits that drivers are known to report through wgpu, rounded down.
static PROFILES: [Profile; 12] = [
    profile("webgpu-defaults", Other, 8, [128 * MIB, 256 * MIB]),
    profile("apple-m", Integrated, 31, [4096 * MIB - 4, 9216 * MIB]).workgroup(32 << 10, 1024),
    profile("intel-gen", Integrated, 64, [512 * MIB, 2048 * MIB - 1])
        .workgroup(32 << 10, 1024)
        .aligned(64, 64),
    profile("amd-rdna", Discrete, 1024, [2048 * MIB - 4, 4096 * MIB])
        .workgroup(64 << 10, 1024)
        .aligned(32, 32),
    profile("nvidia", Discrete, 1024, [2048 * MIB - 4, 4096 * MIB]).workgroup(48 << 10, 1024).aligned(64, 32),
    profile("warp", Software, 64, [128 * MIB, 2048 * MIB - 1]).workgroup(32 << 10, 1024).aligned(256, 32),
    profile("chromium", Other, 10, [128 * MIB, 256 * MIB]).workgroup(16 << 10, 256),
    // Bindings smaller than on any known device: features, embeddings and similarities are bound in pieces.
    profile("small-bindings", Other, 8, [2 * MIB, 64 * MIB]),
    profile("downlevel", Other, 4, [128 * MIB, 256 * MIB])
        .workgroup(16352, 256)
        .refused("4 storage buffers a stage of the 8 needed"),
    profile("gles-3.1-minimum", Other, 8, [128 * MIB, 256 * MIB])
        .workgroup(16 << 10, 128)
        .refused("128 invocations a workgroup of the 256 needed"),
    profile("workgroup-memory", Other, 8, [128 * MIB, 256 * MIB])
        .workgroup(16352, 256)
        .refused("16352 bytes of workgroup memory of the 16384 needed"),
    profile("no-compute", Other, 0, [0, 256 * MIB])
        .workgroup(0, 0)
        .refused("0 storage buffers a stage of the 8 needed"),
];

impl Profile {
    fn adapters(&self) -> Adapters {
        let [uniform, storage] = self.alignment;
        let limits = Limits {
            max_storage_buffers_per_shader_stage: self.storage_buffers,
            max_storage_buffer_binding_size: self.bytes[0],
            max_buffer_size: self.bytes[1],
            max_compute_workgroup_storage_size: self.workgroup_memory,
            max_compute_invocations_per_workgroup: self.invocations,
            max_compute_workgroup_size_x: self.invocations,
            max_compute_workgroup_size_y: self.invocations,
            min_uniform_buffer_offset_alignment: uniform,
            min_storage_buffer_offset_alignment: storage,
            ..Limits::default()
        };
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        descriptor.backends = wgpu::Backends::NOOP;
        descriptor.backend_options.noop = wgpu::NoopBackendOptions {
            limits: Some(limits),
            features: Some(wgpu::Features::empty()),
            ..wgpu::NoopBackendOptions::enabled()
        };
        pollster::block_on(Adapters::of(&wgpu::Instance::new(descriptor), Some(self.kind)))
    }

    fn run(&self) -> Outcome {
        let adapters = self.adapters();
        let Some(why) = self.refused else { return everything(&adapters.open("gpu")?) };
        let error = adapters.open("gpu").err().ok_or(format!("not refused for `{why}`"))?.to_string();
        let instead = adapters.open("auto")?;
        let reason = &instead.info().reason;
        let said = error.contains(why) && reason.contains(why) && instead.adapter().is_none();
        if said { Ok(()) } else { Err(format!("{error}\n{reason}\ndo not say `{why}`").into()) }
    }
}

/// All named objectives, and InfoNCE with a learned temperature.
fn objectives() -> Vec<Objective> {
    let named = [
        "hinge",
        "hinge-sum",
        "infonce",
        "infonce-masked",
        "siglip",
        "infonce-log-sum",
        "cir:sig-ms@positives:hardest@top:2",
        "circle-all@positives:log-sum",
        "siglip-masked",
        "cir:sig-ms@top:2",
        "nca:lin@semi-hard",
        "cir:sig@all",
        "infonce+0.5*cir:con@top:2",
    ]
    .map(|name| name.parse().unwrap());
    let learned = InfonceParams::default().with(|c| c.learn_temperature = true);
    Objective::goal_combinations().chain(named).chain([Objective::Infonce(learned)]).collect()
}

fn everything(device: &Device) -> Outcome {
    let mut random = Random::new(1);
    // The last size needs several blocks of the similarity matrix on every profile: all pairs would take 144 MB.
    for (pairs, dims, embed) in [(1, [3, 5], 1), (37, [5, 130], 7), (300, [64, 1033], 257), (6000, [4, 4], 4)]
    {
        let (images, texts) = (random.values(pairs * dims[0]), random.values(pairs * dims[1]));
        let ids = random.indices(pairs, pairs);
        for mask_same_image in [true, false] {
            let config = TrainConfig::default().with(|c| c.mask_same_image = mask_same_image);
            let mut pipeline = Pipeline::new(device, Head::new(dims[0], dims[1], embed, 0)?, &config, pairs)?;
            for objective in objectives() {
                let batch = Features { images: &images, texts: &texts, ids: &ids };
                pipeline.step(batch, &objective, 1e-3).map_err(|e| format!("{objective}, {pairs}: {e}"))?;
            }
            pipeline.records()?;
            pipeline.head()?;
        }
        let (x, y) = (&images[..pairs * 3], &texts[..pairs * 3]);
        // Each call allocates its own strip, so the batch that takes 128 MiB tests only some objectives.
        let some = objectives().into_iter().step_by(if pairs > 1000 { 9 } else { 1 });
        for (objective, normalize) in some.zip([true, false].into_iter().cycle()) {
            let ids = normalize.then_some(&ids[..]);
            let options = GradientOptions::default().with(|c| {
                c.normalize = normalize;
                c.ids = ids;
            });
            objective
                .gradients(device, (x, 3), (y, 3), options)
                .map_err(|e| format!("gradients of {objective}, {pairs}: {e}"))?;
        }
        let own: Vec<u32> = (0..pairs as u32).collect();
        Recall::of(device, x, y, 3, &own)?;
    }
    local_features(device)?;
    // This covers reading, embedding, validation and both optimisers.
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/data/clipart-mini");
    for optimizer in [
        wgoal::optim::Optimizer::default(),
        wgoal::optim::Optimizer::Sgd(wgoal::optim::Sgd::default().with(|c| c.momentum = 0.9)),
    ] {
        let config = TrainConfig::default().with(|c| {
            c.epochs = 1;
            c.embed = 64;
            c.optimizer = optimizer;
        });
        Trainer::new(device, Dataset::open(data)?, config)?.run_epoch()?;
    }
    Ok(())
}

/// Regions and tokens that are pooled on the device, in batches of different sizes.
fn local_features(device: &Device) -> Outcome {
    let config = TrainConfig::default().with(|c| {
        c.embed = 65;
        c.image_pooling = Pooling::Gpo;
        c.text_pooling = Pooling::Gpo;
        c.image_encoder = EncoderKind::ResidualMlp;
        c.mask_same_image = false;
    });
    let (mut random, pairs) = (Random::new(2), 37);
    let mut pipeline =
        Pipeline::new(device, Head::for_config(130, 33, &config.head(), config.seed)?, &config, pairs)?;
    for longest in [1, 36, 7] {
        let mut offsets = vec![0];
        (0..pairs).for_each(|i| offsets.push(offsets[i] + 1 + random.below(longest) as u32));
        let rows = offsets[pairs] as usize;
        let (images, texts) = (random.values(rows * 130), random.values(rows * 33));
        let batch = Features { images: &images, texts: &texts, ids: &[] };
        pipeline.step_local(batch, [&offsets, &offsets], &config.objective, 1e-3)?;
    }
    pipeline.records()?;
    let head = pipeline.head()?;
    // All rows of a batch go into one binding. If they do not fit, the error says so.
    let rows = 9000;
    let found = head.encode(device, Side::Image, &vec![1.0; rows * 130], &vec![1; rows]);
    match (found, device.adapter()) {
        (Ok(_), Some(gpu)) if gpu.max_binding() >= rows * 68 * 4 => {}
        (Err(error), Some(gpu)) if gpu.max_binding() < rows * 68 * 4 => {
            let said = error.to_string().contains("image batch of 9000 rows: expected at most 2097152 bytes");
            said.then_some(()).ok_or_else(|| error.to_string())?;
        }
        (found, _) => return Err(format!("{} rows: {:?}", rows, found.map(|rows| rows.len())).into()),
    }
    pooled_alone(device, rows)?;
    wide_features(device)?;
    for (side, dim) in [(Side::Image, 130), (Side::Text, 33)] {
        let features = random.values(3 * 5 * dim);
        head.encode(device, side, &features, &[5, 1, 2])?;
        head.encode_backward(device, side, &features, &[5, 1, 2], &random.values(3 * 65))?;
    }
    Ok(())
}

/// The pooling operator without a head. Input that does not fit into a binding is refused before the driver sees it,
/// and the device still works afterwards.
fn pooled_alone(device: &Device, rows: usize) -> Outcome {
    let Some(gpu) = device.adapter() else { return Ok(()) };
    let gpo = Gpo::new(32, 32, 0)?;
    let pool =
        |rows: usize, dim: usize, lengths: &[u32]| gpo.pool(device, &vec![1.0; rows * dim], lengths, dim);
    // First too many features, then a single item that is too long: its gates are wider than its features.
    for (found, bytes, words) in [
        (
            pool(rows, 130, &vec![1; rows]),
            rows * 132 * 4,
            "local features of 9000 rows: expected at most 2097152 bytes",
        ),
        (pool(rows, 4, &[rows as u32]), 2 * rows * 128 * 4, "bytes of a matrix or vector at once"),
    ] {
        match found {
            Ok(_) if gpu.max_binding() >= bytes => {}
            Err(error) if gpu.max_binding() < bytes => {
                let said = error.to_string().contains(words);
                said.then_some(()).ok_or_else(|| format!("`{error}` should say `{words}`"))?;
            }
            found => {
                return Err(format!("{bytes} bytes: {:?}", found.map(|pooled| pooled.features.len())).into());
            }
        }
    }
    pool(5, 130, &[1; 5])?;
    Ok(())
}

/// Rows so wide that a binding does not hold 64 of them, the unit in which matrix products are split.
fn wide_features(device: &Device) -> Outcome {
    let Some(gpu) = device.adapter() else { return Ok(()) };
    let (wide, config) = (10_000, TrainConfig::default());
    let fits = gpu.max_binding() >= 64 * wide * 4;
    let pipeline =
        |dims: [usize; 2], pairs| Pipeline::new(device, Head::new(dims[0], dims[1], 8, 0)?, &config, pairs);
    for (dims, side) in [([wide, 4], "image"), ([4, wide], "text")] {
        match pipeline(dims, 128) {
            Ok(_) if fits => {}
            Err(error) if !fits => {
                let words = format!("{side} features: expected rows of at most 8192 columns");
                let said = error.to_string().contains(&words);
                said.then_some(()).ok_or_else(|| format!("`{error}` should say `{words}`"))?;
            }
            found => return Err(format!("{dims:?}: {:?}", found.map(|pipeline| pipeline.steps())).into()),
        }
    }
    // A few such rows are bound as a whole.
    let (images, texts, ids) = (vec![1.0; 10 * wide], [1.0; 40], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let batch = Features { images: &images, texts: &texts, ids: &ids };
    let mut pipeline = pipeline([wide, 4], 10)?;
    pipeline.step(batch, &config.objective, 1e-3)?;
    pipeline.records()?;
    Ok(())
}

pub fn tests(suite: &mut Suite) {
    for profile in &PROFILES {
        suite.once(profile.name, || profile.run());
    }
}
