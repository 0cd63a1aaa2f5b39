Feature: The same prompt and seed give the same tokens
  Whatever else the server is doing.

  Scenario: Alone and in a crowd
    Given a server with the tiny model
    When I ask 4 questions one after the other
    And I ask the same 4 questions all at once among 4 others
    Then each question has the same answer both times

  Scenario: On plain and on vector instructions
    Given a server with the tiny model
    When I ask 4 questions one after the other
    And a server on scalar kernels is asked the same
    Then each question has the same answer both times
