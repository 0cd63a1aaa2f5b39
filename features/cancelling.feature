Feature: A task can be taken back
  After a cancel is acknowledged nothing more is sent, whatever was under way.

  Background:
    Given a slow server with the tiny model

  Scenario: Cancelling a task that runs
    When I submit a task of 1500 tokens
    And I read 3 tokens of its stream
    And I cancel it
    Then the cancel is acknowledged
    And its stream ends with the error CANCELLED and no token after the acknowledgement
    And cancelling it again is acknowledged too

  Scenario: A chat client that hangs up frees its slot
    When I start 4 chat streams of 1500 tokens and hang up on all of them
    Then a task of 5 tokens still gets its answer

  Scenario: A deadline ends a task
    When I submit a task of 1500 tokens with a deadline of 300 ms
    Then its stream ends with the error DEADLINE_UNMET
