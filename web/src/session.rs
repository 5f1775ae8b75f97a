//! A session: a device, a dataset and a training run.

use crate::words::Failure;
use crate::{options, pairs, search};
use serde_json::json;
use std::cell::RefCell;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use wasm_bindgen::prelude::{JsValue, wasm_bindgen};
use wgoal::train::{Event, Every, StepStats, Watched};
use wgoal::{Checkpoint, Dataset, Device, ErrorKind, Head, Split, Trainer};

/// How often the page looks at a run within an epoch. A look waits for the device, so it must be rare beside steps.
const LOOK: Every = Every::Time(Duration::from_millis(250));

thread_local! {
    /// The functions of the page that are told of every step, and of every look.
    static ON_STEP: RefCell<Option<js_sys::Function>> = const { RefCell::new(None) };
    static ON_LOOK: RefCell<Option<js_sys::Function>> = const { RefCell::new(None) };
}

/// What a session has.
#[derive(Default)]
struct State {
    device: Option<Device>,
    dataset: Option<Arc<Dataset>>,
    trainer: Option<Trainer>,
    /// The head before the first step, and the head of the last epoch.
    before: Option<Head>,
    after: Option<Head>,
    /// The file to continue from, and the file of the best head.
    last: Option<Vec<u8>>,
    best: Option<Vec<u8>>,
}

/// A device, a dataset and a training run.
#[wasm_bindgen]
#[derive(Default)]
pub struct Session {
    state: RefCell<State>,
    stop: Arc<AtomicBool>,
}

#[wasm_bindgen]
impl Session {
    /// A session without a device.
    #[wasm_bindgen(constructor)]
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens a device, again if it was lost. `request` is `gpu`, or another name of a device. Returns what the device is, in
    /// JSON.
    ///
    /// # Errors
    /// No such device.
    pub async fn open(&self, request: String) -> Result<String, Failure> {
        self.state.borrow_mut().trainer = None;
        let device = Device::open_async(&request).await?;
        let info = serde_json::to_string(device.info())?;
        self.state.borrow_mut().device = Some(device);
        Ok(info)
    }

    /// Calls `listener` with the epoch, the step and the number of steps after every step.
    pub fn on_step(&self, listener: js_sys::Function) {
        ON_STEP.with_borrow_mut(|own| *own = Some(listener));
    }

    /// Calls `listener` a few times per second, and after the last step of an epoch, with two values. The first is a JSON
    /// text: the place in the run, counted in epochs, and the means of loss and similarities over the steps since the last
    /// call. The second has the triplets of the current batch: see [`pairs::points`].
    pub fn on_look(&self, listener: js_sys::Function) {
        ON_LOOK.with_borrow_mut(|own| *own = Some(listener));
    }

    /// Opens a dataset in the contents of files. `files` has names and bytes in turn. Returns its size, and the captions of
    /// the split that the page searches, in JSON. If it fails, the dataset before it stays.
    ///
    /// # Errors
    /// Anything that is missing, malformed or inconsistent.
    pub fn load(&self, name: &str, files: Vec<JsValue>) -> Result<String, Failure> {
        let mut contents = Vec::new();
        for pair in files.chunks_exact(2) {
            let file = pair[0].as_string().unwrap_or_default();
            // The only copy: a program in WebAssembly reads its own memory alone.
            contents.push((file, js_sys::Uint8Array::new(&pair[1]).to_vec()));
        }
        let dataset = Dataset::from_files(name, contents)?;
        let split = search::split(&dataset);
        let mut captions = Vec::new();
        for text in &dataset.split(split).texts {
            if let Some(caption) = dataset.caption(text as usize)? {
                captions.push(json!([text, caption]));
            }
        }
        let sizes = Split::ALL.map(|split| dataset.split(split).images.len());
        let chance = wgoal::eval::Truth::of_split(&dataset, Split::Val, Default::default())?.chance();
        let summary = json!({
            "name": dataset.name(), "images": dataset.images(), "texts": dataset.texts(),
            "widths": [dataset.image_dim(), dataset.text_dim()], "splits": sizes,
            "captions": captions, "searched": split.to_string(), "chance": chance,
            "train_texts": dataset.split(Split::Train).texts.len(),
        });
        let device = self.state.borrow().device.clone();
        *self.state.borrow_mut() = State { device, dataset: Some(Arc::new(dataset)), ..State::default() };
        Ok(summary.to_string())
    }

    /// Starts a run.
    ///
    /// # Errors
    /// An option out of range; no dataset; a device without the memory.
    pub async fn start(&self, options: String) -> Result<(), Failure> {
        let config = options::parse(&options)?.config()?;
        let (device, dataset) = (self.device()?, self.dataset()?);
        let before = Head::for_dataset(&dataset, &config.head(), config.seed)?;
        let trainer = Trainer::new(&device, dataset, config)?;
        let last = trainer.checkpoint_async().await?.to_bytes()?;
        let mut state = self.state.borrow_mut();
        (state.before, state.after, state.best) = (Some(before), None, None);
        state.last = Some(last);
        state.trainer = Some(self.listened(trainer));
        Ok(())
    }

    /// Continues the run from its last checkpoint, with more epochs if `epochs` is above those of the run.
    ///
    /// # Errors
    /// No run; a device without the memory.
    pub fn resume(&self, epochs: usize) -> Result<(), Failure> {
        let (device, dataset) = (self.device()?, self.dataset()?);
        let last = self.state.borrow().last.clone();
        let last = last.ok_or_else(|| Failure::early("continue", "start a run"))?;
        let checkpoint = Checkpoint::from_bytes("last.safetensors", &last)?;
        let epochs = epochs.max(checkpoint.config().epochs);
        let trainer = Trainer::resume(&device, dataset, checkpoint.with_epochs(epochs))?;
        self.state.borrow_mut().trainer = Some(self.listened(trainer));
        Ok(())
    }

    /// Trains one epoch and validates. Returns its results in JSON, as in a line of `metrics.jsonl`; nothing if the run has
    /// ended. After an error, [`Session::resume`] continues from the last checkpoint.
    ///
    /// # Errors
    /// A request to stop, a failing device, a run that diverges.
    pub async fn epoch(&self) -> Result<Option<String>, Failure> {
        let Some(mut trainer) = self.state.borrow_mut().trainer.take() else {
            return Err(Failure::early("an epoch", "start a run"));
        };
        if trainer.finished() {
            self.state.borrow_mut().trainer = Some(trainer);
            return Ok(None);
        }
        let epoch = match trainer.run_epoch_async().await {
            Ok(epoch) => epoch,
            Err(error) => {
                if error.kind() == ErrorKind::Stopped {
                    let last = trainer.checkpoint_async().await?.to_bytes()?;
                    self.state.borrow_mut().last = Some(last);
                }
                return Err(error.into());
            }
        };
        let checkpoint = trainer.checkpoint_async().await?;
        let (last, best) = (checkpoint.to_bytes()?, trainer.best().map(|best| best.to_bytes()).transpose()?);
        let mut state = self.state.borrow_mut();
        (state.last, state.best) = (Some(last), best);
        state.after = Some(checkpoint.head().clone());
        state.trainer = Some(trainer);
        Ok(Some(serde_json::to_string(&epoch)?))
    }

    /// Asks the run to stop after its current step.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// The file of the best head so far.
    ///
    /// # Errors
    /// No epoch was trained.
    pub fn head(&self) -> Result<Vec<u8>, Failure> {
        self.state.borrow().best.clone().ok_or_else(|| Failure::early("the head", "train an epoch"))
    }

    /// The pictures nearest to a caption, a row of the texts, before training and after the last epoch, in JSON.
    ///
    /// # Errors
    /// No run; a failing device.
    pub async fn search(&self, text: u32) -> Result<String, Failure> {
        let (device, dataset) = (self.device()?, self.dataset()?);
        let (before, after) = {
            let state = self.state.borrow();
            (state.before.clone(), state.after.clone())
        };
        let mut found = Vec::new();
        for head in [before, after] {
            found.push(match head {
                Some(head) => Some(search::nearest(&device, &dataset, &head, text.into()).await?),
                None => None,
            });
        }
        Ok(serde_json::to_string(&found)?)
    }

    /// The number of submissions of work so far.
    #[must_use]
    pub fn submissions(&self) -> f64 {
        let state = self.state.borrow();
        state.device.as_ref().and_then(Device::adapter).map_or(0.0, |gpu| gpu.submissions() as f64)
    }

    /// Destroys the device, for tests of what the page does then.
    pub fn lose_device(&self) {
        if let Some(gpu) = self.state.borrow().device.as_ref().and_then(Device::adapter) {
            gpu.destroy();
        }
    }
}

impl Session {
    /// The open device.
    pub fn device(&self) -> Result<Device, Failure> {
        self.state.borrow().device.clone().ok_or_else(|| Failure::early("a run", "open a device"))
    }

    fn dataset(&self) -> Result<Arc<Dataset>, Failure> {
        self.state.borrow().dataset.clone().ok_or_else(|| Failure::early("a run", "open a dataset"))
    }

    /// The same run, which tells the page of its steps and can be stopped.
    fn listened(&self, mut trainer: Trainer) -> Trainer {
        self.stop.store(false, Ordering::Relaxed);
        trainer.stop_when(self.stop.clone());
        // What the page does with a call cannot fail the run.
        trainer.on_event(|event| {
            if let Event::Step { epoch, step, steps } = event {
                ON_STEP.with_borrow(|listener| {
                    let [epoch, step, steps] = [epoch, step, steps].map(|n| JsValue::from(n as u32));
                    listener.as_ref().map(|listener| listener.call3(&JsValue::NULL, &epoch, &step, &steps))
                });
            }
            ControlFlow::Continue(())
        });
        trainer.watch(LOOK, |seen| {
            ON_LOOK.with_borrow(|listener| {
                let points = js_sys::Float32Array::from(&pairs::points(seen)[..]);
                let place = JsValue::from_str(&look(seen).to_string());
                listener.as_ref().map(|listener| listener.call2(&JsValue::NULL, &place, &points))
            });
        });
        trainer
    }
}

/// The place of a look, and the means of what the steps since the last look recorded.
fn look(seen: &Watched) -> serde_json::Value {
    let mean = |field: fn(&StepStats) -> f32| {
        seen.stats.iter().map(|stats| f64::from(field(stats))).sum::<f64>() / seen.stats.len().max(1) as f64
    };
    json!({
        "at": (seen.epoch - 1) as f64 + seen.step as f64 / seen.steps as f64,
        "loss": mean(|stats| stats.loss), "positive": mean(|stats| stats.positive),
        "hardest": mean(|stats| stats.hardest),
    })
}
