Feature: Every decision can be explained and proven
  The journal of a run re-executes to the same decisions, and tells of any task why it went where it went.

  Scenario: Why was it placed there?
    Given a server with the tiny model in two pools
    When I submit a task of 10 tokens and wait for its end
    Then asking the server to explain it names both workers and the one that was chosen
    And after the server went down, orch explain tells the same and proves it
    And orch replay finds every step equal

  Scenario: Where is the beginning of a prompt known?
    Given a server with the tiny model in two pools
    When I send the same prompt of 100 tokens twice
    Then 96 of them were looked up the second time
    And the explanation says who knew 64 of them and that it was chosen

  Scenario: What would another rule have done?
    Given a slow server with the tiny model in two pools that evens out their load
    When I submit 8 tasks of 200 tokens and wait for their ends
    And the server goes down
    Then orch replay with another placement policy names the first decision that differs
