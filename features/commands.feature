Feature: The command line is a client, and says what is wrong and how to mend it

  Scenario: A task is submitted and followed
    Given a server with the tiny model
    When I submit "Once upon a time" with orch and seed 7
    Then orch streams what the task says, and its id
    And following the task again gives the same text
    And as JSON it is the task's result

  Scenario: A detached task runs without a reader
    Given a server with the tiny model
    When I submit a detached batch task with orch
    Then orch prints its id alone, and the task comes to its end

  Scenario: A stream goes on over a restart of the server
    Given a slow server with the tiny model
    When I submit a long task with orch and the server is killed and started again
    Then orch says that it went on, and how the task ended

  Scenario: The doctor finds nothing wrong beside a running server
    Given a server with the tiny model
    When I ask the doctor about that server
    Then nothing is wrong, and the port is said to be Orchestrion's

  Scenario: The doctor says what is wrong and how to mend it
    When I ask the doctor about a pool whose model is not there
    Then it fails, names the file and says what to correct

  Scenario: The doctor knows who may listen where
    When I ask the doctor about listening beyond this machine without a token
    Then it fails with 40301

  Scenario: A slip in the configuration is understood
    When I serve with a configuration that says "interactive_maxx"
    Then I am asked whether I meant "interactive_max"

  Scenario: A slip in a model's path is said before a journal begins
    When I serve a model that is not there
    Then it fails, names the file, and has begun no journal

  Scenario Outline: Shells complete
    When I ask for the completions of <shell>
    Then they know the command "submit"

    Examples:
      | shell |
      | bash  |
      | fish  |
      | zsh   |
