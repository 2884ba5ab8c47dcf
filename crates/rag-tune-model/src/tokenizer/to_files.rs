//! A tokenizer as the files that transformers reads, where it came without them.

use std::fs;
use std::path::Path;

use serde_json::json;
use tokenizers::processors::template::TemplateProcessing;

use super::{TOKENIZER_JSON, Tokenizer};
use crate::error::ModelError;

impl Tokenizer {
    /// Writes tokenizer.json and tokenizer_config.json into `folder`, with a chat template if there is one.
    ///
    /// # Errors
    /// [`ModelError::Write`], [`ModelError::Tokenizer`].
    pub(crate) fn save(
        &self,
        folder: &Path,
        chat_template: Option<&str>,
    ) -> Result<(), ModelError> {
        let wrong = |error: String| ModelError::tokenizer(&self.origin, error);
        let mut inner = self.inner.clone();
        let text = |id: Option<u32>| id.and_then(|id| self.token(id));
        let bos = text(self.bos_id);
        if let (true, Some(id), Some(bos)) = (self.adds_bos, self.bos_id, &bos) {
            let template = TemplateProcessing::builder()
                .try_single(format!("{bos} $A"))
                .and_then(|builder| builder.try_pair(format!("{bos} $A $B:1")))
                .map_err(wrong)?
                .special_tokens(vec![(bos.clone(), id)])
                .build()
                .map_err(|error| wrong(error.to_string()))?;
            inner.with_post_processor(Some(template));
        }
        let json = inner
            .to_string(false)
            .map_err(|error| wrong(error.to_string()))?;
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": bos,
            "eos_token": text(self.eos_ids.first().copied()),
            "add_bos_token": self.adds_bos,
            "clean_up_tokenization_spaces": false,
        });
        if let Some(template) = chat_template {
            config["chat_template"] = json!(template);
        }
        let files = [
            (TOKENIZER_JSON, json),
            ("tokenizer_config.json", format!("{config:#}\n")),
        ];
        files.into_iter().try_for_each(|(name, text)| {
            let path = folder.join(name);
            fs::write(&path, text).map_err(ModelError::write(&path))
        })
    }
}
