//! What requests become, with generated models.

use super::*;
use orchestrion_api::port;
use orchestrion_gpu::engine::Makes;
use orchestrion_gpu::generate::{GenSpec, generate};
use orchestrion_gpu::gguf::Gguf;
use orchestrion_gpu::template::TemplateError;
use orchestrion_world::payload::{Output, Sampling};
use orchestrion_world::units::Permille;

#[test]
fn without_a_template_chats_are_refused_and_prompts_are_served() {
    let gguf = Gguf::parse(generate(&GenSpec::default()).unwrap()).unwrap();
    let template = Err(TemplateError::Absent { known: "chatml".to_owned() });
    let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf).unwrap());
    let grammars = Arc::new(Grammars::new(Arc::clone(&tokenizer)));
    let recipe =
        Recipe { tokenizer, grammars, template, ctx_max: 64, makes: Makes::Text, width: 0, fingerprint: String::new() };
    let hello = port::Message { role: "user".to_owned(), content: "hello".to_owned(), more: Vec::new() };
    let chat = recipe.tokens(&Content::Messages(vec![hello]), Output::Text, &[], "");
    let Err(PrepareError::Invalid { field: "messages", problem }) = chat else {
        panic!("a chat without a template became {chat:?}");
    };
    assert!(problem.contains("no chat template") && problem.contains("completions"), "{problem}");
    let prompt = recipe.tokens(&Content::Prompt("hello".to_owned()), Output::Text, &[], "");
    assert!(prompt.is_ok_and(|tokens| !tokens.is_empty()));
}

/// Prepares words with the model `m`, which a generated encoder of a context of six tokens is.
fn encoder(makes: Makes) -> impl Fn(Content, Output, Truncation) -> Result<Prepared, PrepareError> {
    let gguf = Gguf::parse(generate(&GenSpec::of("bert").unwrap()).unwrap()).unwrap();
    let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf).unwrap());
    let grammars = Arc::new(Grammars::new(Arc::clone(&tokenizer)));
    let template = Err(TemplateError::Absent { known: String::new() });
    let recipe = Recipe { tokenizer, grammars, template, ctx_max: 7, makes, width: 8, fingerprint: String::new() };
    let kitchen = Kitchen::new(vec!["m".to_owned()]);
    assert!(kitchen.put("m", recipe));
    move |content, output, truncation| {
        let sampling = Sampling {
            seed: 0,
            temperature: Permille(0),
            top_k: 0,
            top_p: Permille(1000),
            min_p: Permille(0),
            repetition_penalty: Permille(1000),
        };
        let bare = Words::new("m".to_owned(), content, sampling, output);
        kitchen.prepare(Words { max_tokens: Some(1), truncation, ..bare })
    }
}

#[test]
fn an_encoder_reads_texts_up_to_its_limit_and_answers_none() {
    let prepare = encoder(Makes::Vectors);
    let text = |text: &str| Content::Prompt(text.to_owned());
    // [CLS] the cat and a dog [SEP]: one too many.
    let fits = prepare(text("the cat and a"), Output::Embedding, Truncation::Disabled).unwrap();
    assert_eq!(fits.payload.prompt.len(), 6);
    let refused = |content, output| prepare(content, output, Truncation::Disabled).unwrap_err().to_string();
    let long = prepare(text("the cat and a dog"), Output::Embedding, Truncation::Disabled).unwrap_err();
    assert!(matches!(long, PrepareError::TooLong { field: "prompt", .. }), "{long}");
    let long = long.to_string();
    assert!(long.starts_with("prompt: it takes 7 tokens, and this model reads at most 6 at once; cut it up"), "{long}");
    // Its end goes, but not the token that ends a text.
    let cut = prepare(text("the cat and a dog and a cat"), Output::Embedding, Truncation::Auto).unwrap();
    assert_eq!((cut.payload.prompt, cut.dropped), (fits.payload.prompt, Dropped { messages: 0, tokens: 4 }));
    let ids = prepare(Content::Tokens((10..20).collect()), Output::Embedding, Truncation::Auto).unwrap();
    assert_eq!(*ids.payload.prompt, [10, 11, 12, 13, 14, 15], "ids are taken as they stand");
    assert!(refused(text("hello"), Output::Text).contains("/v1/embeddings"));
    assert!(refused(text("hello"), Output::Score).contains("pooling_type"));
}

#[test]
fn a_pair_is_read_together_and_the_document_alone_gives_way() {
    let prepare = encoder(Makes::Scores);
    let pair = |query: &str, document: &str| Content::Pair { query: query.into(), document: document.to_owned() };
    let given = |query, document, truncation| prepare(pair(query, document), Output::Score, truncation);
    let (auto, off) = (Truncation::Auto, Truncation::Disabled);
    let whole = given("the", "a cat", off).unwrap();
    let [begins, query, separates, rest @ ..] = &*whole.payload.prompt else { panic!("no pair") };
    assert_eq!((*begins, *separates, rest.len(), rest[2]), (2, 3, 3, 3));
    // What a client spells separates nothing.
    let spelled = given("the", "[SEP]", auto).unwrap().payload.prompt;
    assert_eq!(spelled.iter().filter(|token| **token == 3).count(), 2);
    let long = given("the", "a cat and a dog", off).unwrap_err().to_string();
    assert!(long.starts_with("documents: it takes 9 tokens with the query") && long.contains("truncation"), "{long}");
    let cut = given("the", "a cat and a dog", auto).unwrap();
    assert_eq!((&cut.payload.prompt[..2], cut.payload.prompt.len()), (&[2, *query][..], 6));
    assert_eq!((&cut.payload.prompt[3..5], cut.payload.prompt[5]), (&rest[..2], 3));
    assert_eq!(cut.dropped, Dropped { messages: 0, tokens: 3 });
    for truncation in [auto, off] {
        let query = given("the cat and a", "dog", truncation).unwrap_err();
        let PrepareError::TooLong { field: "query", problem } = &query else { panic!("{query}") };
        assert!(problem.starts_with("it takes 6 tokens"), "{problem}");
    }
    for output in [Output::Text, Output::Embedding] {
        let refused = prepare(Content::Prompt("the".to_owned()), output, off).unwrap_err().to_string();
        assert!(refused.contains("/v1/rerank"), "{refused}");
    }
}

#[test]
fn what_is_oldest_is_left_out_and_what_the_system_says_stays() {
    let gguf = Gguf::parse(generate(&GenSpec::default()).unwrap()).unwrap();
    let template = Template::from_gguf(&gguf);
    let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf).unwrap());
    let grammars = Arc::new(Grammars::new(Arc::clone(&tokenizer)));
    let recipe = Recipe {
        tokenizer,
        grammars,
        template,
        ctx_max: 200,
        makes: Makes::Text,
        width: 0,
        fingerprint: String::new(),
    };
    let tokens = |content: &Content| recipe.tokens(content, Output::Text, &[], "");
    let shortened =
        |content: &Content, answer| recipe.shortened(tokens(content).unwrap(), content, Some(answer), &tokens);
    let message = |role: &str, content: String| port::Message { role: role.to_owned(), content, more: Vec::new() };
    let turn = |n: usize| [message("user", format!("question {n}?")), message("assistant", format!("answer {n}."))];
    let chat: Vec<port::Message> = [message("system", "be brief".to_owned())]
        .into_iter()
        .chain((0..20).flat_map(turn))
        .chain([message("user", "and now?".to_owned())])
        .collect();
    let all = Content::Messages(chat.clone());
    let (left, dropped) = shortened(&all, 50).unwrap();
    assert_eq!(left.len() + dropped.tokens as usize, tokens(&all).unwrap().len());
    assert!(left.len() <= 150 && dropped.messages % 2 == 0 && dropped.messages > 0);
    let kept = [&chat[..1], &chat[1 + dropped.messages as usize..]].concat();
    assert_eq!(left, tokens(&Content::Messages(kept)).unwrap());
    // One turn more would have been too many.
    let more = [&chat[..1], &chat[dropped.messages as usize - 1..]].concat();
    assert!(tokens(&Content::Messages(more)).unwrap().len() > 150);
    // What fits is left alone; what never fits is refused with the numbers.
    let short = Content::Messages(chat[..2].to_vec());
    assert_eq!(shortened(&short, 50).unwrap(), (tokens(&short).unwrap(), Dropped::default()));
    let Err(PrepareError::TooLong { field: "messages", problem }) = shortened(&all, 199) else { panic!() };
    assert!(problem.contains("room for 1 beside the answer's 199"), "{problem}");
    let prompt = Content::Tokens((0..300).map(|i| i % 100).collect());
    let (left, dropped) = shortened(&prompt, 50).unwrap();
    let bos = usize::from(recipe.tokenizer.bos() == Some(0));
    assert_eq!((left.len(), dropped), (150, Dropped { messages: 0, tokens: 150 }));
    assert_eq!(left[bos..], tokens(&prompt).unwrap()[150 + bos..]);
}
