//! Work for a GPU as data: items in order, and submissions in flight.

use super::image::ImageCopy;
use super::pipeline::Pipeline;
use super::staged::Staged;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use web_time::Instant;

/// Bytes between two parameter blocks: the largest `min_uniform_buffer_offset_alignment` in use.
pub(super) const PARAM_SLOT: u64 = 256;
/// Bytes of the parameter blocks of one submission, for 256 dispatches.
pub(super) const PARAMS: u64 = PARAM_SLOT * 256;
/// Submissions in flight before the host waits, so that their uploads cannot pile up in memory.
pub(super) const MAX_IN_FLIGHT: usize = 3;
/// Longest time that a submission should take, in seconds: far below the watchdogs of drivers (about 2 s on Windows).
pub(super) const SUBMISSION: f64 = 0.1;
/// Shortest time that a submission should take, in seconds: short steps share one, unless the next work comes too late.
pub(super) const TOGETHER: f64 = 0.005;

/// Work in order, with the parameters of its dispatches.
pub(super) struct Work {
    pub items: Vec<Item>,
    pub params: Vec<u8>,
    /// Cost of the dispatches, in floating-point operations.
    pub cost: f64,
    /// Bytes of the uploads.
    pub staged: u64,
    pub begun: Instant,
}

pub(super) enum Item {
    Upload(Upload),
    Image(ImageCopy),
    Dispatch(Dispatch),
    ReadBack(ReadBack),
}

/// A copy to memory that the host reads.
pub(super) struct ReadBack {
    pub from: wgpu::Buffer,
    pub offset: u64,
    pub to: wgpu::Buffer,
}

/// A copy to a buffer from memory that the host has written.
pub(super) struct Upload {
    pub from: Staged,
    pub to: wgpu::Buffer,
    pub offset: u64,
}

pub(super) struct Dispatch {
    pub pipeline: Arc<Pipeline>,
    pub bindings: wgpu::BindGroup,
    /// Offset of its parameter block, in bytes.
    pub offset: u32,
    pub grid: [u32; 3],
    /// For the profile: its name, its bytes and its floating-point operations.
    pub what: Cow<'static, str>,
    pub bytes: f64,
    pub cost: f64,
}

/// Submissions in flight, and the device's speed as measured with earlier ones.
pub(super) struct Flight {
    pub submissions: VecDeque<Submission>,
    /// Number of submissions of work so far.
    pub count: u64,
    /// Cost per second.
    pub rate: f64,
    /// When the last submission was seen to end.
    pub ended: Instant,
    /// In a browser: work that waits until fewer submissions are in flight, and who waits for that.
    #[cfg(not(feature = "native"))]
    pub held: super::held_back::HeldBack,
}

pub(super) struct Submission {
    #[cfg(feature = "native")]
    pub index: wgpu::SubmissionIndex,
    pub cost: f64,
    pub begun: Instant,
}

impl Flight {
    /// Starts with a guess of the speed: `work_per_submit` floating-point operations take [`SUBMISSION`] seconds.
    pub fn new(work_per_submit: f64) -> Self {
        Self {
            submissions: VecDeque::new(),
            count: 0,
            rate: work_per_submit / SUBMISSION,
            ended: Instant::now(),
            #[cfg(not(feature = "native"))]
            held: Default::default(),
        }
    }
}

impl Flight {
    /// Updates the estimate of the device's speed with a submission that has ended now.
    pub fn measure(&mut self, cost: f64, begun: Instant) {
        let now = Instant::now();
        let seconds = now.duration_since(begun.max(self.ended)).as_secs_f64();
        self.ended = now;
        // A short submission says more about overhead than about speed. Half of the old estimate stays, because one
        // slow submission, which may include compilation, must not make the next ones tiny.
        if seconds > 1e-3 && cost > 1e6 {
            self.rate = (0.5 * self.rate + 0.5 * cost / seconds).clamp(1e8, 1e14);
        }
    }
}

impl Default for Work {
    fn default() -> Self {
        Self { items: Vec::new(), params: Vec::new(), cost: 0.0, staged: 0, begun: Instant::now() }
    }
}

impl Work {
    /// Adds more work after this.
    pub fn append(&mut self, mut more: Work) {
        if self.items.is_empty() {
            self.begun = Instant::now();
        }
        let before = self.params.len() as u32;
        for item in &mut more.items {
            if let Item::Dispatch(dispatch) = item {
                dispatch.offset += before;
            }
        }
        self.items.append(&mut more.items);
        self.params.append(&mut more.params);
        self.cost += more.cost;
        self.staged += more.staged;
    }
}

impl Item {
    pub fn is_dispatch(&self) -> bool {
        matches!(self, Self::Dispatch(_))
    }

    /// Encodes a copy. Dispatches are skipped, because they need a pass.
    pub fn encode_copy(&self, encoder: &mut wgpu::CommandEncoder) {
        match self {
            Self::Upload(Upload { from, to, offset }) => {
                encoder.copy_buffer_to_buffer(from.buffer(), 0, to, *offset, from.len() as u64);
            }
            Self::Image(copy) => copy.encode(encoder),
            Self::ReadBack(ReadBack { from, offset, to }) => {
                encoder.copy_buffer_to_buffer(from, *offset, to, 0, to.size());
            }
            Self::Dispatch(_) => {}
        }
    }

    pub fn encode_dispatch(&self, pass: &mut wgpu::ComputePass) {
        if let Self::Dispatch(Dispatch { pipeline, bindings, offset, grid: [x, y, z], .. }) = self {
            pass.set_pipeline(&pipeline.pipeline);
            pass.set_bind_group(0, bindings, &[*offset]);
            pass.dispatch_workgroups(*x, *y, *z);
        }
    }
}
