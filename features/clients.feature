Feature: Standard clients work
  What OpenAI's own libraries send is understood, and what they act on is there.

  Background:
    Given a server with the tiny model

  Scenario Outline: A bare prompt is continued
    When I ask for the continuation of <prompt>
    Then the continuation has text and 12 completion tokens
    And the same as a stream is the same text and ends with DONE

    Examples:
      | prompt                |
      | "Once upon a time"    |
      | ["Once upon a time"]  |
      | [5, 6, 7]             |

  Scenario: Several answers to one question
    When I ask for 3 choices with seed 7
    Then they are numbered, differ, and the first is what seed 7 gives alone
    And asking for them again gives them again
    And as a stream they are the same, each under its number

  Scenario Outline: What cannot be honoured is refused by its name
    When I ask for a chat completion with <field> <value>
    Then I am refused with 400 for <field>

    Examples:
      | field             | value      |
      | n                 | 9          |
      | top_logprobs      | 3          |
      | logit_bias        | {"5": 101} |
      | presence_penalty  | 0.5        |
      | frequency_penalty | -1         |
      | stop              | ["","a"]   |

  Scenario: What clients act on
    When I ask for a chat completion of 5 tokens
    Then the headers name the request and its milliseconds
    And a request that will not work later says that it is not to be repeated
