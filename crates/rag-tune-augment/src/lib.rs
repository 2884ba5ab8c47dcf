//! Data sets, embeddings, example selection and prompts: rows in, augmented prompts out.
