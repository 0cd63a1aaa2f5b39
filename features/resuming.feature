Feature: A reader that lost its connection goes on where it was
  Every event carries an id; who comes back with the last one misses nothing and sees nothing twice.

  Background:
    Given a server with the tiny model

  Scenario: Coming back in the middle
    When I submit a task of 200 tokens
    And I read 20 tokens of its stream and lose the connection
    And I come back with the last event id
    Then together I have seen tokens 0 to 199, each once
