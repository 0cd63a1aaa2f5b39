Feature: A client gets an answer
  Whoever speaks to the server with an OpenAI-compatible client gets what that client expects; whoever uses
  the task queue gets an id, a stream and a result.

  Background:
    Given a server with the tiny model

  Scenario: A chat completion in one piece
    When I ask for a chat completion of 12 tokens
    Then the answer has text and says that it stopped for length
    And its usage counts 12 completion tokens

  Scenario: The same chat completion as a stream
    When I ask for a chat completion of 12 tokens with seed 7
    And I ask for the same as a stream with usage
    Then both answers are the same text
    And the stream ends with its usage and then DONE

  Scenario: A task with a stream
    When I submit a task of 10 tokens
    Then it is accepted with a queue position and a seed
    And its stream tells started, then tokens 0 to 9, then one end
    And a second reader gets the very same stream
    And its result can be fetched afterwards

  Scenario: The server says what it serves
    Then it lists the tiny model
    And its metrics count a finished task after one was answered
