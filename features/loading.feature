Feature: Models that do not fit together take turns
  Who asks for one that is not loaded waits until it is, and gets what it always answers.

  Scenario: Two models in memory for one
    Given a server that may load another model and has memory for one
    When I ask both models in turn, 3 times
    Then each answers as it does where both fit
    And 5 models made way, and one stands
    And the metrics say which
    And the last one's explanation tells of the load

  Scenario: A model whose file is gone
    Given a server that may load another model and has memory for one
    When the other model's file is missing and I ask for it
    Then it is told that no worker serves it
    And a task of 5 tokens is answered
